//! What Redis says of its processes and their memory, in the reply to INFO. No I/O.

use std::collections::BTreeSet;

use redis::Value;

/// What all nodes say. Figures are sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisInfo {
    /// The `run_id` of each process: a random one for each start.
    pub run_ids: BTreeSet<Box<str>>,
    /// Keys deleted before their time, for want of memory.
    pub evicted_keys: u64,
    pub used_bytes: u64,
    /// `maxmemory`; 0 for a node without a bound.
    pub bytes_max: u64,
}

impl RedisInfo {
    /// Adds what one node says. False when the reply has no figures.
    pub fn add(&mut self, reply: &Value) -> bool {
        let text = match reply {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
            _ => return false,
        };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        let figure = |name: &str| field(name)?.parse::<u64>().ok();
        let (Some(evicted), Some(used)) = (figure("evicted_keys"), figure("used_memory")) else {
            return false;
        };
        self.run_ids.extend(field("run_id").map(Box::from));
        self.evicted_keys = self.evicted_keys.saturating_add(evicted);
        self.used_bytes = self.used_bytes.saturating_add(used);
        self.bytes_max = self.bytes_max.saturating_add(figure("maxmemory").unwrap_or(0));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_nodes_are_summed_and_other_replies_add_nothing() {
        let info = b"# Server\r\nrun_id:b8f1\r\n# Memory\r\nused_memory:1000\r\nused_memory_human:1K\r\nmaxmemory:5000\r\n\
            maxmemory_human:5K\r\n# Stats\r\nevicted_keys:7\r\n";
        let mut sum = RedisInfo::default();
        assert!(sum.add(&Value::BulkString(info.to_vec())));
        assert!(sum.add(&Value::BulkString(info.to_vec())));
        let run_ids = BTreeSet::from(["b8f1".into()]);
        let expected =
            RedisInfo { run_ids, evicted_keys: 14, used_bytes: 2_000, bytes_max: 10_000 };
        assert_eq!(sum, expected);
        for reply in [Value::Okay, Value::Nil, Value::BulkString(b"used_memory:x".to_vec())] {
            assert!(!sum.add(&reply));
        }
        assert_eq!(sum, expected);
    }
}
