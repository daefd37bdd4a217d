//! `sigmad notify-test`, with a receiver of ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread::JoinHandle;

/// Answers one request; returns its head and body.
fn receiver(answer: &'static str) -> (u16, JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a line");
            if line == "\r\n" {
                break;
            }
            head += &line.to_lowercase();
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        stream.write_all(answer.as_bytes()).expect("the client reads");
        (head, String::from_utf8(body).expect("UTF-8"))
    });
    (port, thread)
}

fn notify_test(args: &[String]) -> Output {
    Command::new("timeout")
        .arg("60")
        .arg(env!("CARGO_BIN_EXE_sigmad"))
        .arg("notify-test")
        .args(args)
        .env_clear()
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

#[test]
fn each_target_gets_one_marked_notification() {
    let (alertmanager, alert) = receiver("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let (webhook, message) = receiver("HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\ndone\n");
    let output = notify_test(&[
        format!("--alertmanager=http://127.0.0.1:{alertmanager}"),
        format!("--webhook=http://mia:s3cret@127.0.0.1:{webhook}/hook?a=b"),
        "--external-url=https://sigmad.example".to_owned(),
    ]);
    let expected = format!(
        "alertmanager 127.0.0.1:{alertmanager}: ok, 200\nwebhook 127.0.0.1:{webhook}: ok, 202 done\n"
    );
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), &*expected));
    let (head, body) = alert.join().expect("a request");
    assert!(head.starts_with("post /api/v2/alerts http/1.1\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body[0]["labels"]["test"], "true");
    let (head, body) = message.join().expect("a request");
    assert!(head.starts_with("post /hook?a=b http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: basic bwlhonmzy3jlda==\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["isTest"], true);
    let link = body["link"].as_str().expect("a link");
    assert!(link.starts_with("https://sigmad.example/#incident="), "{link}");
}

#[test]
fn a_target_that_fails_is_named_without_its_secrets() {
    let (webhook, message) =
        receiver("HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nbad token");
    let output = notify_test(&[
        format!("--webhook=http://127.0.0.1:{webhook}/s3cret"),
        "--webhook=http://user:s3cret@127.0.0.1:1/s3cret".to_owned(),
    ]);
    message.join().expect("a request");
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(
        text.starts_with(&format!("webhook 127.0.0.1:{webhook}: failed, 403 bad token\n")),
        "{text}"
    );
    assert!(text.contains("webhook 127.0.0.1:1: failed, ") && !text.contains("s3cret"), "{text}");
}

#[test]
fn without_a_target_there_is_nobody_to_tell() {
    let output = notify_test(&[]);
    assert_eq!(output.status.code(), Some(78));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("--alertmanager or --webhook"), "{message}");
    for url in ["--webhook=ftp://h/s3cret", "--alertmanager=s3cret"] {
        let output = notify_test(&[url.to_owned()]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(!message.contains("s3cret") && message.contains("must b"), "{message}");
    }
}
