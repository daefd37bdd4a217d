//! The table, and the OpenAPI document beside it.

use super::*;
use crate::api::actions::TokenRule;

#[test]
fn paths_are_found_exactly_and_once() {
    assert!(ROUTES.is_sorted_by_key(|route| route.shape), "those of many paths are the last rows");
    for (place, route) in ROUTES.iter().enumerate() {
        assert_eq!(find(route.path).index(), place);
        assert_eq!(find(route.path).path(), route.path);
    }
    for path in [
        "",
        "//",
        "/ingest/",
        "/INGEST",
        "/incidents/",
        "/incidents/a/b",
        "/incidents//ack",
        "/metrics/",
        "/ingest%00",
        "*",
    ] {
        assert_eq!(find(path), Label::OTHER, "{path}");
    }
    assert_eq!(Label::OTHER.path(), "other");
}

#[test]
fn methods_lead_to_actions() {
    let act = |path, method| action(find(path), method);
    assert!(matches!(
        act("/ingest", Method::Post),
        Action::Ingest(Convention::Json { success: 202 })
    ));
    assert!(matches!(
        act("/metrics", Method::Post),
        Action::Ingest(Convention::Json { success: 200 })
    ));
    assert!(matches!(act("/ingest", Method::Head), Action::WrongMethod("POST, OPTIONS")));
    assert!(matches!(act("/ingest", Method::Options), Action::Options("POST, OPTIONS")));
    assert!(matches!(act("/nope", Method::Options), Action::Unknown));
    assert!(matches!(act("/metrics", Method::Head), Action::Get(Get::Read(Read::Scrape))));
    assert!(matches!(
        act("/metrics", Method::Other),
        Action::WrongMethod("GET, HEAD, POST, OPTIONS")
    ));
    assert!(matches!(act("/health", Method::Post), Action::WrongMethod("GET, HEAD, OPTIONS")));
    assert!(matches!(act("/nope", Method::Other), Action::Unknown));
    for method in [Method::Get, Method::Head, Method::Post] {
        let symbol = act("/debug/pprof/symbol", method);
        assert!(matches!(symbol, Action::Get(Get::Debug(DebugRead::Symbol))));
    }
    assert!(matches!(act("/debug/pprof/", Method::Post), Action::WrongMethod(_)));
}

#[test]
fn the_openapi_document_describes_exactly_these_routes() {
    let document: serde_json::Value = serde_json::from_str(OPENAPI).expect("the document is JSON");
    let described: Vec<(String, Vec<&str>)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .map(|(path, item)| {
            let methods = item.as_object().expect("operations").keys().map(String::as_str);
            (path.clone(), methods.collect())
        })
        .collect();
    let mut routed: Vec<(String, Vec<&str>)> = ROUTES
        .iter()
        .map(|route| {
            // The document describes HEAD once, for all paths. It keeps methods in the order of their names.
            let methods = [
                ("delete", route.delete.is_some()),
                ("get", route.get.is_some()),
                ("post", route.post.is_some()),
                ("put", route.put.is_some()),
            ];
            let rest = if route.shape == PathShape::Prefix { "{rest}" } else { "" };
            let path = format!("{}{rest}", route.path);
            let routed = methods.into_iter().filter(|(_, is_routed)| *is_routed);
            (path, routed.map(|(method, _)| method).collect())
        })
        .collect();
    routed.sort_unstable();
    // serde_json keeps objects in the order of their keys.
    assert_eq!(described, routed);
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let responses = operation["responses"].as_object().expect("responses");
            let route = find(path.trim_end_matches("{rest}")).route().expect("routed");
            let post = match method.as_str() {
                "post" => route.post,
                "put" => route.put,
                "delete" => route.delete,
                _ => None,
            };
            let ingest = post.and_then(|post| match post {
                Post::Ingest(convention) => Some(convention.success()),
                Post::Operate(operation) => Some(operation.success()),
                Post::Debug(_) | Post::InfluxQuery => None,
            });
            let success = ingest.unwrap_or(200).to_string();
            assert!(responses.contains_key(&success), "{method} {path}: {success}");
            let is_guarded =
                route.get.is_some_and(|get| get.token() != TokenRule::Open) || ingest.is_some();
            for status in ["401", "403"] {
                assert_eq!(responses.contains_key(status), is_guarded, "{method} {path}: {status}");
            }
            assert_eq!(operation.get("security").is_some(), is_guarded, "{method} {path}");
        }
    }
}

#[test]
fn every_reference_of_the_openapi_document_resolves() {
    fn check(value: &serde_json::Value, document: &serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(|to| to.as_str()) {
                    let pointer = reference.strip_prefix('#').expect("local references");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                fields.values().for_each(|value| check(value, document));
            }
            serde_json::Value::Array(items) => {
                items.iter().for_each(|value| check(value, document));
            }
            _ => {}
        }
    }
    let document = serde_json::from_str(OPENAPI).expect("JSON");
    check(&document, &document);
}
