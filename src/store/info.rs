//! What Redis says of its own memory, in the reply to INFO. No I/O.

use redis::Value;

/// Sums over all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisMemory {
    /// Keys deleted before their time, for want of memory.
    pub evicted_keys: u64,
    pub used_bytes: u64,
    /// `maxmemory`; 0 for a node without a bound.
    pub bytes_max: u64,
}

impl RedisMemory {
    /// Adds the figures of one node. False when the reply has none.
    pub fn add(&mut self, reply: &Value) -> bool {
        let text = match reply {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
            _ => return false,
        };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|digits| digits.trim().parse::<u64>().ok())
        };
        let (Some(evicted), Some(used)) = (field("evicted_keys"), field("used_memory")) else {
            return false;
        };
        self.evicted_keys = self.evicted_keys.saturating_add(evicted);
        self.used_bytes = self.used_bytes.saturating_add(used);
        self.bytes_max = self.bytes_max.saturating_add(field("maxmemory").unwrap_or(0));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_nodes_are_summed_and_other_replies_add_nothing() {
        let info = b"# Memory\r\nused_memory:1000\r\nused_memory_human:1K\r\nmaxmemory:5000\r\n\
            maxmemory_human:5K\r\n# Stats\r\nevicted_keys:7\r\n";
        let mut memory = RedisMemory::default();
        assert!(memory.add(&Value::BulkString(info.to_vec())));
        assert!(memory.add(&Value::BulkString(info.to_vec())));
        let sum = RedisMemory { evicted_keys: 14, used_bytes: 2_000, bytes_max: 10_000 };
        assert_eq!(memory, sum);
        for reply in [Value::Okay, Value::Nil, Value::BulkString(b"used_memory:x".to_vec())] {
            assert!(!memory.add(&reply));
        }
        assert_eq!(memory, sum);
    }
}
