//! The link to Redis: when it is made, whether its master is still the same, and what Redis says of itself.

use std::sync::atomic::Ordering;

use tracing::{info, warn};

use super::StoreThread;
use crate::store::info::RedisInfo;
use crate::store::link::{Link, LinkError};

/// Interval at which a sentinel is asked whether the master is still the same.
const CONFIRM_EVERY_NS: u64 = 1_000_000_000;
/// The same after no sentinel could be asked: an attempt to connect may take a second.
const CONFIRM_AGAIN_NS: u64 = 5_000_000_000;
/// A sentinel names another master this long after it was promoted, at most: it sees the promotion in INFO, which it
/// reads once a second, and the others hear of it every two seconds.
const SENTINEL_LAG_NS: u64 = 5_000_000_000;
/// Interval at which Redis is asked for its memory: shorter than a scrape is. A new connection asks at once.
const INFO_EVERY_NS: u64 = 5_000_000_000;

impl StoreThread {
    pub(super) fn connect(&mut self) -> Result<(), LinkError> {
        if self.link.is_none() {
            let link = Link::connect(&self.target, &self.identity)?;
            self.counters.connections_total.add(1);
            let master = link.master().cloned();
            self.link = Some(link);
            let now_ns = self.clock.monotonic_ns();
            if master != self.master {
                // Others have marked changes here since it became the master, while the last one gave later numbers: they
                // are the time in microseconds, or grow more slowly.
                let apart_ns = now_ns - self.confirmed_ns + SENTINEL_LAG_NS;
                self.cursor = self.cursor.saturating_sub(apart_ns / 1_000);
                let samples = self.queue.write_again();
                self.counters.rewritten_total.add(samples);
                if samples > 0 {
                    info!(samples, "another master: samples of the last seconds are written again");
                }
                self.master = master;
                self.lists.begin_again();
            }
            self.confirmed_ns = now_ns;
            self.info_ns = now_ns;
            // Tells the time, before anything is written under it.
            self.mark()?;
        }
        Ok(())
    }

    /// After SIGHUP, shows whether Redis takes the password that the next connection will give. If not, the present
    /// connections stay as they are.
    pub(super) fn log_in_again(&mut self) -> Result<(), LinkError> {
        // Relaxed: no other data depends on it.
        if !self.logs_in_again.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let Some(login) = self.target.login.clone() else { return Ok(()) };
        match self.linked().log_in_again(&login)? {
            Ok(is_done) if is_done => info!("logged in to Redis again"),
            Ok(_) => {}
            Err(error) => {
                self.counters.errors_total[error.kind as usize].add(1);
                warn!(%error, "Redis refuses the password that was read again; the connection stays");
            }
        }
        Ok(())
    }

    /// Behind sentinels, asks from time to time whether the master is still the same. What was written to it long
    /// enough before is safe.
    pub(super) fn confirm_master(&mut self) -> Result<(), LinkError> {
        let now_ns = self.clock.monotonic_ns();
        if self.master.is_none() || now_ns < self.confirm_ns {
            return Ok(());
        }
        let is_confirmed = self.linked().confirm_master()?;
        self.confirm_ns = now_ns + if is_confirmed { CONFIRM_EVERY_NS } else { CONFIRM_AGAIN_NS };
        if is_confirmed {
            self.confirmed_ns = now_ns;
            self.queue.confirm(now_ns.saturating_sub(SENTINEL_LAG_NS));
        }
        Ok(())
    }

    /// Asks Redis from time to time for its memory, and whether it is the process that it was. A user without the right to
    /// ask learns neither.
    pub(super) fn ask_info(&mut self) -> Result<(), LinkError> {
        let now_ns = self.clock.monotonic_ns();
        if now_ns < self.info_ns {
            return Ok(());
        }
        self.info_ns = now_ns + INFO_EVERY_NS;
        let mut info = RedisInfo::default();
        for reply in self.linked().ask_nodes(&redis::cmd("INFO"))? {
            if !reply.is_ok_and(|reply| info.add(&reply.into_value())) {
                return Ok(());
            }
        }
        self.counters.redis_evicted_total.set(info.evicted_keys);
        self.counters.redis_used_bytes.set(info.used_bytes);
        self.counters.redis_bytes_max.set(info.bytes_max);
        let before = std::mem::replace(&mut self.lists.run_ids, info.run_ids);
        if !before.is_empty() && !self.lists.run_ids.is_subset(&before) {
            // It may have started with a snapshot from before what the lists have here.
            self.lists.begin_again();
        }
        Ok(())
    }

    /// After the last flush: false when the last samples must be written again, to another master. The time in
    /// which a sentinel may not know of it is not waited for.
    pub(super) fn has_confirmed(&mut self) -> bool {
        if !self.queue.is_unconfirmed() {
            return true;
        }
        if self.link.is_none() {
            return false;
        }
        self.confirm_ns = 0;
        match self.confirm_master() {
            Ok(()) => true,
            Err(error) => {
                self.flush_failed(&error);
                false
            }
        }
    }
}
