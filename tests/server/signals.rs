//! Signals to the real binary: which of them drain, which read secrets again, and which change nothing.

use crate::harness::{Engine, Launch, Server, WAIT, get, request};

fn with_token(path: &str, token: &str) -> Vec<u8> {
    request("GET", path, &[("Authorization", &format!("Bearer {token}"))], b"")
}

#[test]
fn each_request_to_stop_drains() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
        let mut server = Server::start(Engine::Native, &["--workers", "1"]);
        assert_eq!(server.ingest(r#"{"rps":1}"#).accepted(), 1);
        server.signal(signal);
        let status = server.wait_exit(WAIT).expect("it exits");
        assert_eq!(status.code(), Some(0), "signal {signal}");
        let log = server.log_text();
        assert!(log.contains("\"judged\":1"), "{log}");
    }
}

#[test]
fn other_signals_change_nothing_and_log_one_line_at_most() {
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    let others = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGVTALRM, libc::SIGXFSZ];
    for signal in others {
        for _ in 0..3 {
            server.signal(signal);
            server.get("/health").expect(200);
        }
        let number = format!("\"signal\":{signal}");
        server.wait_for_log(&["ignored", &number]).expect("a line");
    }
    let (code, log) = server.stop();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("signal ignored").count(), others.len(), "{log}");
}

#[test]
fn a_hangup_reads_token_files_again() {
    let directory = std::env::temp_dir().join(format!("sigmad-signals-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let file = directory.join("token");
    std::fs::write(&file, "first\n").expect("a file");
    let flag = format!("@{}", file.display());
    let mut args = vec!["--workers", "2", "--read-token", &flag];
    // Nothing listens there: only the file is read again.
    args.extend(["--redis-url", "redis://127.0.0.1:1", "--redis-password", &flag]);
    let server = Launch { args: &args, ..Launch::default() }.start();
    let mut kept = server.connect();
    kept.exchange(&with_token("/analyze", "first")).expect(200);

    std::fs::write(&file, "second\n").expect("a file");
    server.signal(libc::SIGHUP);
    server.wait_for_log(&["tokens", "read again"]).expect("a line");
    server.wait_for_log(&["redis password", "read again"]).expect("a line");
    // Connections stay open, and every worker has the new token.
    kept.exchange(&with_token("/analyze", "second")).expect(200);
    kept.exchange(&with_token("/analyze", "first")).expect(403);
    for _ in 0..20 {
        server.ask(&with_token("/analyze", "second")).expect(200);
    }

    // What cannot be used changes nothing.
    std::fs::write(&file, "").expect("a file");
    server.signal(libc::SIGHUP);
    server.wait_for_log(&["tokens", "stays in force", "--read-token is empty"]).expect("a line");
    server.wait_for_log(&["redis password", "not read again", "empty"]).expect("a line");
    kept.exchange(&with_token("/analyze", "second")).expect(200);
    kept.exchange(&get("/analyze")).expect(401);

    let (code, log) = server.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains("second"), "a token is never logged: {log}");
    std::fs::remove_dir_all(directory).expect("it was made");
}
