//! What the rungs are made of; see the program `ladder`.
//!
//! [`rungs`] is the list. [`web`] serves the lower ones, on axum; [`epoll`] the upper ones, on sigmad's
//! engine. What changes from rung to rung: [`samples`] reads bodies, [`windows`] judges, [`analytics`] is
//! the thread that does it, [`counters`] counts, [`writer`] writes to Redis.

pub mod actix;
pub mod analytics;
pub mod axum_written_well;
pub mod counters;
pub mod epoll;
pub mod rungs;
pub mod samples;
pub mod web;
pub mod windows;
pub mod writer;

use std::io;
use std::net::SocketAddr;

use clap::{Args, Parser};
use sigmad::config::ServerSettings;

/// What every server is told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// write samples to this Redis
    #[arg(long)]
    pub redis_url: Option<String>,
    /// threads that serve HTTP
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// cores that the process may use, as taskset takes them
    #[arg(long, value_delimiter = ',')]
    pub cpu: Vec<usize>,
}

impl Options {
    /// Keeps every thread of this process, those to come included, on the cores of `--cpu`.
    ///
    /// # Errors
    /// When the kernel says that it can't be.
    pub fn stay_on_cores(&self) -> io::Result<()> {
        if self.cpu.is_empty() {
            return Ok(());
        }
        // SAFETY: a cpu_set_t is an array of bits, for which zeros are valid.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &core in &self.cpu {
            if core >= 8 * size_of_val(&set) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            // SAFETY: the core is one of the set's bits.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
        // SAFETY: the set is as large as it says, and the call only reads it.
        match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The cores that threads may be pinned to.
    pub fn cores(&self) -> Vec<usize> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        cores.into_iter().map(|core| core.id).collect()
    }

    /// sigmad's own settings, as it makes them of the same flags.
    ///
    /// # Panics
    /// When sigmad would not take them.
    pub fn sigmad_settings(&self) -> ServerSettings {
        #[derive(Parser)]
        struct Serve {
            #[command(flatten)]
            settings: ServerSettings,
        }
        let mut flags = vec!["sigmad".to_owned()];
        flags.push(format!("--listen={}", self.listen));
        flags.push(format!("--workers={}", self.workers));
        flags.extend(self.redis_url.iter().map(|url| format!("--redis-url={url}")));
        Serve::parse_from(flags).settings
    }
}
