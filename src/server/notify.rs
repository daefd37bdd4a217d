//! Who tells others of incidents, from the settings.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Instant;

use sigmad_clock::Clock;
use sigmad_notify::trial;

use super::host::host_name;
use crate::config::ServerSettings;

/// The port of links if no address of TCP is known.
const PORT: u16 = 8080;

/// Where people reach this server, with a slash at the end.
fn external_url(settings: &ServerSettings, tcp: Option<SocketAddr>) -> String {
    if let Some(url) = settings.notify.external_url.as_ref().and_then(|url| url.without_user()) {
        return format!("{}/", url.trim_end_matches('/'));
    }
    let scheme = if settings.tls_cert.is_some() { "https" } else { "http" };
    format!("{scheme}://{}:{}/", host_name(), tcp.map_or(PORT, |address| address.port()))
}

/// `sigmad notify-test`: tells each target, and prints what it answered. Returns whether each has taken it.
///
/// # Errors
/// When `out` can't be written.
pub fn notify_test(
    settings: &ServerSettings,
    start: Instant,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let tcp = settings.listen.iter().find_map(|address| address.tcp());
    let link = external_url(settings, tcp);
    trial::run(&settings.notify, &host_name(), &link, Clock::new(start).now(), out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Invocation, parse_from};

    fn link(args: &[&str]) -> String {
        match parse_from([&["sigmad", "notify-test", "--webhook=http://h"], args].concat()) {
            Ok(Invocation::NotifyTest(settings)) => {
                let tcp = settings.listen.iter().find_map(|address| address.tcp());
                external_url(&settings, tcp)
            }
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn links_lead_to_this_machine_or_where_the_setting_says() {
        let host = host_name();
        assert_eq!(link(&[]), format!("http://{host}:8080/"));
        assert_eq!(link(&["--listen=127.0.0.1:81"]), format!("http://{host}:81/"));
        for given in ["https://sigmad.example/x", "https://sigmad.example/x/"] {
            assert_eq!(link(&["--external-url", given]), "https://sigmad.example/x/");
        }
    }
}
