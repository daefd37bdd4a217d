//! Spawning and joining of the threads that the server can't run without.

use std::io;
use std::thread::JoinHandle;

use core_affinity::CoreId;
use tracing::warn;

/// Starts a thread on a core. A panic in it is a bug, and the server can't keep its promises without the thread:
/// the process ends.
pub(super) fn spawn<T: Send + 'static>(
    name: String,
    core: Option<usize>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    struct AbortOnPanic;
    impl Drop for AbortOnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::process::abort();
            }
        }
    }
    std::thread::Builder::new().name(name).spawn(move || {
        let _guard = AbortOnPanic;
        if let Some(id) = core
            && !core_affinity::set_for_current(CoreId { id })
        {
            warn!(core = id, "the kernel did not pin this thread");
        }
        run()
    })
}

/// The result of a thread that [`spawn`] started.
pub(super) fn join<T>(thread: JoinHandle<T>) -> T {
    // Err: it panicked, so the process is about to end.
    thread.join().unwrap_or_else(|_| std::process::abort())
}

/// Waits for threads whose panic the server survives.
pub(super) fn join_all(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // Err: it panicked; there is no result to lose.
        let _ = thread.join();
    }
}
