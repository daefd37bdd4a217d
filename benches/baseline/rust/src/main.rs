//! The baseline alone: `baseline --listen ADDR [--redis-url URL] [--workers N]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut listen, mut redis_url, mut workers) = ("127.0.0.1:8080".to_owned(), None, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next();
        match (flag.as_str(), value) {
            ("--listen", Some(address)) => listen = address,
            ("--redis-url", Some(url)) => redis_url = Some(url),
            ("--workers", Some(count)) if count.parse::<usize>().is_ok_and(|n| n > 0) => {
                workers = count.parse().expect("just seen to be a number");
            }
            _ => {
                eprintln!("usage: baseline --listen ADDR [--redis-url URL] [--workers N]");
                return ExitCode::from(2);
            }
        }
    }
    match baseline::run(&listen, redis_url.as_deref(), workers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
