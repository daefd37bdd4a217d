//! The commands by which detector states follow their device.

use redis::{Cmd, RedisWrite};

use super::CommandEncoder;
use crate::store::batch::CommandBuilder;
use crate::store::keys;
use crate::store::states::{StatesHeader, VERSION};

/// Adds states to those of a device, unless Redis has some of a newer version. Returns 0 then, else 1.
const STATES: &str = include_str!("../scripts/states.lua");

impl CommandEncoder {
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

    /// Reads the states of a device.
    pub fn read_states(&mut self, device: &str) -> Cmd {
        self.of_states("HGETALL", device, None)
    }

    /// Deletes the states of a device, which this replica has now.
    pub fn delete_states(&mut self, device: &str) -> Cmd {
        self.of_states("DEL", device, None)
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
