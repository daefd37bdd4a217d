//! The commands by which detector states follow their device.

use redis::{Cmd, RedisWrite};

use super::CommandEncoder;
use crate::store::batch::CommandBuilder;
use crate::store::keys::{self, ReplicaId};
use crate::store::states::{StatesHeader, VERSION};

/// Adds states to those of a device, unless Redis has some of a newer version. Returns 0 then, else 1.
const STATES: &str = include_str!("../scripts/states.lua");

/// Takes a device over: its states are this replica's from now on.
const TAKE_OVER: &str = include_str!("../scripts/take_over.lua");

/// Deletes the states of a device that the replica which has taken it over has now.
const RECEIVED: &str = include_str!("../scripts/received.lua");

/// Returns those of some replicas that have not said for a time that they live.
const GONE: &str = include_str!("../scripts/gone.lua");

impl CommandEncoder {
    /// Takes a device over: its states are this replica's from now on.
    pub fn take_over(&mut self, device: &str) -> Cmd {
        let mut cmd = self.of_counts_and_states(TAKE_OVER, device);
        cmd.arg(self.options.replica.as_str()).arg(&self.fixed.stream_idle_ms);
        cmd
    }

    /// Deletes the states of a device, which this replica has now by the takeover of that number.
    pub fn received_states(&mut self, device: &str, takeover: u32) -> Cmd {
        let mut cmd = self.of_counts_and_states(RECEIVED, device);
        cmd.arg(self.options.replica.as_str()).arg(takeover);
        cmd
    }

    fn of_counts_and_states(&mut self, script: &str, device: &str) -> Cmd {
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(script).arg(2);
        self.key.clear();
        keys::write_counts_key(&mut self.key, Some(device));
        cmd.arg(&self.key);
        self.key.clear();
        keys::write_states_key(&mut self.key, device);
        cmd.arg(&self.key);
        cmd
    }

    /// Asks which of these replicas have not said for `life_us` that they live.
    pub fn ask_gone(&self, life_us: u64, replicas: impl Iterator<Item = ReplicaId>) -> Cmd {
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(GONE).arg(1).arg(keys::ALIVE).arg(life_us);
        replicas.for_each(|replica| cmd.write_arg(replica.as_str().as_bytes()));
        cmd
    }

    /// Writes the states of some streams of a device. The first part replaces what Redis has; the header of the last one
    /// says that they are whole.
    pub fn write_states(
        &mut self,
        device: &str,
        is_first: bool,
        header: Option<StatesHeader>,
        streams: &[(&str, &[u8])],
    ) -> Cmd {
        self.key.clear();
        keys::write_states_key(&mut self.key, device);
        self.text.clear();
        if let Some(header) = header {
            header.write(&mut self.text);
        }
        let mut cmd = Cmd::new();
        cmd.arg("EVAL").arg(STATES).arg(1).arg(&self.key);
        cmd.arg(VERSION).arg(u8::from(is_first)).arg(&self.fixed.stream_idle_ms).arg(&self.text);
        for (metric, states) in streams {
            cmd.write_arg(metric.as_bytes());
            cmd.write_arg(states);
        }
        cmd
    }

    /// Reads the header of the states of a device.
    pub fn read_states_header(&mut self, device: &str) -> Cmd {
        self.of_states("HGET", device, Some(b""))
    }

    /// Reads the counts that a replica has of a device.
    pub fn read_counts_of(&mut self, device: &str, replica: ReplicaId) -> Cmd {
        self.key.clear();
        keys::write_counts_key(&mut self.key, Some(device));
        self.text.clear();
        keys::write_field(&mut self.text, replica, None);
        CommandBuilder::of(&[b"HGET", &self.key, &self.text]).cmd
    }

    /// Reads the states of a device.
    pub fn read_states(&mut self, device: &str) -> Cmd {
        self.of_states("HGETALL", device, None)
    }

    fn of_states(&mut self, name: &str, device: &str, field: Option<&[u8]>) -> Cmd {
        self.key.clear();
        keys::write_states_key(&mut self.key, device);
        let mut command = CommandBuilder::new(name, 2, self.key.len());
        command.arg(&self.key);
        if let Some(field) = field {
            command.arg(field);
        }
        command.cmd
    }
}
