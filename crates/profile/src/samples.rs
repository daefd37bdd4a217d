//! The samples of a CPU profile: stacks by thread, added up.

use std::collections::HashMap;

use super::threads;

/// How often a stack was sampled, and the CPU time it represents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackWeight {
    /// Samples.
    pub count: u64,
    /// CPU time that they represent.
    pub ns: u64,
}

/// Stacks, by thread.
#[derive(Debug, Default)]
pub struct ProfileSamples {
    /// By thread id and stack.
    stacks: HashMap<i32, HashMap<Box<[u64]>, StackWeight>>,
    names: HashMap<i32, ThreadName>,
    /// Samples that found no free slot.
    pub lost: u64,
    /// Samples with a truncated stack: see [`CUT`](super::capture::CUT).
    pub cut: u64,
}

#[derive(Debug)]
struct ThreadName {
    name: String,
    looks: u32,
}

/// A thread has its parent's name until it has given itself another.
const LOOKS: u32 = 8;
const UNNAMED: &str = "[ended]";

impl ProfileSamples {
    /// Adds samples of one thread.
    pub fn add(&mut self, tid: i32, stack: &[u64], count: u64, ns: u64) {
        self.name(tid);
        let stacks = self.stacks.entry(tid).or_default();
        let weight = match stacks.get_mut(stack) {
            Some(weight) => weight,
            None => stacks.entry(stack.into()).or_default(),
        };
        weight.count += count;
        weight.ns += ns;
    }

    /// Adds samples of a thread with a known name.
    pub fn add_named(&mut self, tid: i32, name: &str, stack: &[u64], count: u64, ns: u64) {
        let named = || ThreadName { name: name.to_owned(), looks: LOOKS };
        self.names.entry(tid).or_insert_with(named);
        self.add(tid, stack, count, ns);
    }

    fn name(&mut self, tid: i32) {
        let named = self.names.entry(tid);
        let named = named.or_insert_with(|| ThreadName { name: UNNAMED.to_owned(), looks: 0 });
        if named.looks < LOOKS {
            named.looks += 1;
            if let Some(name) = threads::name(tid) {
                named.name = name;
            }
        }
    }

    /// All stacks, with the names of their threads.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u64], StackWeight)> {
        self.stacks.iter().flat_map(|(tid, stacks)| {
            let name = self.names.get(tid).map_or(UNNAMED, |named| &named.name);
            stacks.iter().map(move |(stack, weight)| (name, &**stack, *weight))
        })
    }

    /// The sum.
    pub fn total(&self) -> StackWeight {
        self.iter().fold(StackWeight::default(), |sum, (_, _, weight)| StackWeight {
            count: sum.count + weight.count,
            ns: sum.ns + weight.ns,
        })
    }
}
