//! Incidents, by the routes of the real binary.

use serde_json::json;

use crate::harness::{Engine, Server};

#[test]
fn without_incidents_the_lists_are_empty() {
    for engine in [Engine::Native, Engine::May] {
        let server = Server::start(engine, &[]);
        let list = server.get("/incidents").expect(200).json();
        assert_eq!(list["scope"], "local");
        assert_eq!((&list["incidents"], &list["next"]), (&json!([]), &json!(null)));
        assert!(list["computedAt"].as_i64().expect("a time") > 1_700_000_000);
        assert_eq!(server.get("/silences").expect(200).json()["count"], 0);
        let error = server.get("/incidents/01JFY09SVVZZZZZZZZZW000007").expect(404).json();
        assert_eq!(error["error"]["message"], "there is no such incident");
        for query in
            ["state=x", "severity=x", "after=x", "since=x", "limit=0", "device=", "scope=x"]
        {
            let error = server.get(&format!("/incidents?{query}")).expect(400).json();
            let name = query.split('=').next().expect("a name");
            assert!(error["error"]["message"].as_str().expect("text").contains(name), "{error}");
        }
        // The label is the route, whatever was asked for.
        let scrape = server.get("/metrics").expect(200);
        let text = String::from_utf8_lossy(&scrape.body).into_owned();
        assert!(text.contains(r#"method="GET",path="/incidents/{id}",code="404""#), "{text}");
        assert!(text.contains("sigmad_incidents_open{severity=\"critical\"} 0"), "{text}");
    }
}
