//! Who tells others of incidents, from the settings.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use sigmad_clock::{Clock, elapsed};
use sigmad_notify::counters::TargetCounters;
use sigmad_notify::sender::{NotesKept, Sender as NotificationSender, SenderParts};
use sigmad_notify::target::Target;
use sigmad_notify::trial;
use tracing::warn;

use super::counters::ServerCounters;
use super::host::host_name;
use super::shared::Shared;
use super::threads::spawn;
use crate::config::ServerSettings;
use crate::incidents::asker::IncidentsAsker;
use crate::incidents::keeper::Notes;
use crate::incidents::shared::ClusterLink;
use crate::incidents::told::ToldBook;

/// The port of links if no address of TCP is known.
const PORT: u16 = 8080;
/// How often the end looks whether the threads have ended.
const JOIN_INTERVAL: Duration = Duration::from_millis(5);

/// The counters of each target.
pub(super) fn counters(settings: &ServerSettings) -> Vec<Arc<TargetCounters>> {
    let targets = settings.notify.targets();
    targets.iter().map(|target| Arc::new(TargetCounters::new(target.name()))).collect()
}

/// What targets are told, and how far.
pub(super) struct Told<'a> {
    /// Where the server listens.
    pub tcp: Option<SocketAddr>,
    /// The book.
    pub incidents: &'a IncidentsAsker,
    /// Where what was told is kept for a restart. None where nothing is.
    pub notes: Option<Notes>,
    /// Who tells is one of several replicas. None without Redis.
    pub cluster: Option<ClusterLink>,
}

impl Told<'_> {
    /// What a sender asks, what wakes it, and where it keeps what was told.
    fn of(
        &self,
        target: &Target,
        shared: &Shared,
    ) -> Option<(ToldBook, Receiver<()>, Option<NotesKept>)> {
        let key = target.key();
        if let Some(ClusterLink { state, notes, .. }) = self.cluster.clone() {
            let clock = Clock::new(shared.start);
            let changes = state.subscribe();
            let (to, of) = (notes.clone(), key.clone());
            let keep = Box::new(move |note| to.keep(&of, note));
            let book = ToldBook::Cluster { state, notes, target: key, clock };
            return Some((book, changes, Some(NotesKept { before: None, keep })));
        }
        let notes = self.notes.clone().map(|notes| {
            let before = notes.of(&key);
            NotesKept { before, keep: Box::new(move |note| notes.keep(&key, note)) }
        });
        let changes = self.incidents.subscribe()?;
        Some((ToldBook::Own(self.incidents.clone()), changes, notes))
    }
}

/// The running threads.
pub(super) struct Notifiers(Vec<RunningSender>);

struct RunningSender {
    target: String,
    thread: JoinHandle<()>,
    stop: Sender<u64>,
}

impl Notifiers {
    /// Starts a thread for each target.
    pub fn start(
        settings: &ServerSettings,
        shared: &Shared,
        counters: &ServerCounters,
        told: Told<'_>,
    ) -> io::Result<Self> {
        let link = external_url(settings, told.tcp);
        let targets = settings.notify.targets().into_iter().zip(&counters.notify).enumerate();
        let start = |(number, (target, counters)): (usize, (Target, &Arc<TargetCounters>))| {
            let (stop, stopped) = bounded(1);
            let Some((book, changes, notes)) = told.of(&target, shared) else {
                return Err(io::Error::other("the thread of incidents has ended"));
            };
            let name = target.name();
            let sender = NotificationSender::new(SenderParts {
                target,
                external_url: link.clone(),
                book,
                changes,
                counters: counters.clone(),
                clock: Clock::new(shared.start),
                seed: RandomState::new().hash_one(number),
                stop: stopped,
                notes,
            });
            let thread = spawn(format!("notify-{number}"), None, move || sender.run())?;
            Ok(RunningSender { target: name, thread, stop })
        };
        targets.map(start).collect::<io::Result<_>>().map(Self)
    }

    /// Lets each send what is due until `deadline`. Returns false if a thread waits for its target still: it asks the
    /// thread `incidents` no more, but holds on to it.
    pub fn stop(self, start: Instant, deadline: Duration) -> bool {
        for sender in &self.0 {
            // Err: the thread has ended.
            let _ = sender.stop.send(deadline.as_nanos() as u64);
        }
        let mut have_all_ended = true;
        for RunningSender { target, thread, .. } in self.0 {
            while !thread.is_finished() && elapsed(start) < deadline {
                std::thread::sleep(JOIN_INTERVAL);
            }
            if !thread.is_finished() {
                warn!(target, "does not answer before the end");
                have_all_ended = false;
            }
        }
        have_all_ended
    }
}

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
