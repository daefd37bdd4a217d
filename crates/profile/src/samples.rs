//! What a CPU profile has found so far: stacks of threads, added up.

use std::collections::HashMap;

use super::threads;

/// How often, and how much CPU time, a stack was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Samples.
    pub count: u64,
    /// CPU time that they stand for.
    pub ns: u64,
}

/// Stacks, by thread.
#[derive(Debug, Default)]
pub struct Samples {
    /// By the number of the thread, and the stack.
    stacks: HashMap<i32, HashMap<Box<[u64]>, Weight>>,
    names: HashMap<i32, Named>,
    /// Samples that nobody could take in time.
    pub lost: u64,
    /// Samples whose stack is not whole: see [`CUT`](super::capture::CUT).
    pub cut: u64,
}

#[derive(Debug)]
struct Named {
    name: String,
    looks: u32,
}

/// A thread has its parent's name until it has given itself another.
const LOOKS: u32 = 8;
const UNNAMED: &str = "[ended]";

impl Samples {
    /// Adds one, of that thread.
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

    /// Adds one, of a thread whose name is known already.
    pub fn add_named(&mut self, tid: i32, name: &str, stack: &[u64], count: u64, ns: u64) {
        let named = || Named { name: name.to_owned(), looks: LOOKS };
        self.names.entry(tid).or_insert_with(named);
        self.add(tid, stack, count, ns);
    }

    fn name(&mut self, tid: i32) {
        let named = self.names.entry(tid);
        let named = named.or_insert_with(|| Named { name: UNNAMED.to_owned(), looks: 0 });
        if named.looks < LOOKS {
            named.looks += 1;
            if let Some(name) = threads::name(tid) {
                named.name = name;
            }
        }
    }

    /// All of them, with the name of the thread.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u64], Weight)> {
        self.stacks.iter().flat_map(|(tid, stacks)| {
            let name = self.names.get(tid).map_or(UNNAMED, |named| &named.name);
            stacks.iter().map(move |(stack, weight)| (name, &**stack, *weight))
        })
    }

    /// The sum.
    pub fn total(&self) -> Weight {
        self.iter().fold(Weight::default(), |sum, (_, _, weight)| Weight {
            count: sum.count + weight.count,
            ns: sum.ns + weight.ns,
        })
    }
}
