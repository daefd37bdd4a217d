//! Commands that are sent together, and what each of them is for. No I/O.

use redis::{Cmd, Pipeline, RedisWrite};

use super::segment::Refusals;

/// Commands in one batch at most. Redis gains nothing past a hundred, and the replies to so many fit into
/// the buffers of a socket, so that neither side ever waits for the other to read.
pub const BATCH_COMMANDS_MAX: usize = 512;
/// A batch with more bytes is full: the windows of a few hundred streams, sent well within a write timeout.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Commands that one row of a segment needs: a window is added to, trimmed, and given its time to live.
const ROW_COMMANDS_MAX: usize = 3;
/// Bytes that a command counts for, beside its arguments.
const COMMAND_BYTES: usize = 64;

/// Commands that are sent together.
#[derive(Debug)]
pub struct CommandBatch {
    /// The commands.
    pub pipeline: Pipeline,
    /// The purpose of each command.
    pub purposes: Vec<Purpose>,
    bytes: usize,
}

/// What a command is for. It decides what is lost if Redis refuses the command for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Adds values to the window of a stream of that subject of the segment.
    Window(u32),
    /// Trims a window, and gives it its time to live.
    WindowBound,
    /// Writes the counts of a device or of the fleet.
    Counts,
    /// Writes the only key of a sample.
    Key,
    /// Writes the second key of a sample, the one without its device.
    SecondKey,
    /// Adds a sample to the history; its key has its value too.
    History,
    /// Adds a sample to the history alone: its key has the value of a later sample.
    HistoryAlone,
}

impl Purpose {
    /// Counts the sample that is lost if this command is refused for good.
    pub fn count_refusal(self, refusals: &mut Refusals) {
        match self {
            Self::Window(subject) => _ = refusals.windows.insert(subject),
            Self::Key => refusals.keys += 1,
            Self::HistoryAlone => refusals.history += 1,
            Self::WindowBound | Self::Counts | Self::SecondKey | Self::History => {}
        }
    }

    /// True when `error` means that Redis had already executed the command.
    pub fn is_done_already(self, error: &str) -> bool {
        matches!(self, Self::History | Self::HistoryAlone) && error.contains("equal or smaller")
    }
}

impl Default for CommandBatch {
    fn default() -> Self {
        Self {
            pipeline: Pipeline::with_capacity(BATCH_COMMANDS_MAX),
            purposes: Vec::with_capacity(BATCH_COMMANDS_MAX),
            bytes: 0,
        }
    }
}

impl CommandBatch {
    pub(super) fn clear(&mut self) {
        self.pipeline.clear();
        self.purposes.clear();
        self.bytes = 0;
    }

    /// The bytes of its commands, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when the commands of one more row fit.
    pub(super) fn has_room(&self) -> bool {
        self.purposes.len() + ROW_COMMANDS_MAX <= BATCH_COMMANDS_MAX && self.bytes < BATCH_BYTES_MAX
    }

    pub(super) fn push(&mut self, purpose: Purpose, command: CommandBuilder) {
        self.bytes += command.bytes;
        self.pipeline.add_command(command.cmd);
        self.purposes.push(purpose);
    }
}

/// Builds one command and counts its bytes.
pub(super) struct CommandBuilder {
    pub cmd: Cmd,
    bytes: usize,
}

impl CommandBuilder {
    /// A command with room for `args` arguments of `bytes` in all.
    pub fn new(name: &str, args: usize, bytes: usize) -> Self {
        let mut cmd = Cmd::with_capacity(args, bytes);
        cmd.write_arg(name.as_bytes());
        Self { cmd, bytes: COMMAND_BYTES }
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: &(impl AsRef<[u8]> + ?Sized)) -> &mut Self {
        self.cmd.write_arg(arg.as_ref());
        self.bytes += arg.as_ref().len();
        self
    }

    /// A whole command.
    pub fn of(args: &[&[u8]]) -> Self {
        let bytes = args.iter().map(|arg| arg.len()).sum();
        let mut cmd = Cmd::with_capacity(args.len(), bytes);
        args.iter().for_each(|arg| cmd.write_arg(arg));
        Self { cmd, bytes: COMMAND_BYTES + bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_the_sample_that_is_lost() {
        let mut refusals = Refusals::default();
        for purpose in [Purpose::WindowBound, Purpose::Counts, Purpose::SecondKey, Purpose::History]
        {
            purpose.count_refusal(&mut refusals);
        }
        assert_eq!(refusals, Refusals::default());
        Purpose::Key.count_refusal(&mut refusals);
        Purpose::HistoryAlone.count_refusal(&mut refusals);
        Purpose::Window(7).count_refusal(&mut refusals);
        Purpose::Window(7).count_refusal(&mut refusals);
        assert_eq!(refusals, Refusals { keys: 1, history: 1, windows: [7].into() });
        let error = "The ID specified in XADD is equal or smaller than the target stream top item";
        assert!(
            Purpose::HistoryAlone.is_done_already(error) && !Purpose::Key.is_done_already(error)
        );
        assert!(
            !Purpose::History.is_done_already("Operation against a key holding the wrong kind")
        );
    }
}
