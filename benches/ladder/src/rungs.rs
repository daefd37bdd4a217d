//! The rungs, from the baseline up, and the servers beside the ladder.

use serde::Serialize;

/// The parts of a rung on axum.
#[derive(Clone, Copy, Debug)]
pub struct WebParts {
    /// How Redis is written.
    pub redis: Redis,
    /// How bodies are read.
    pub json: Json,
    /// How values are judged.
    pub statistics: Statistics,
    /// How requests are counted.
    pub counters: Counters,
    /// Who judges.
    pub judge: Judge,
}

/// The parts of a rung on sigmad's engine.
#[derive(Clone, Copy, Debug)]
pub struct EpollParts {
    /// How bodies are read.
    pub json: Json,
    /// How samples reach the analytics thread.
    pub handover: Handover,
    /// Worker and analytics thread have a core each.
    pub is_pinned: bool,
}

/// How Redis is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redis {
    /// A SET for each sample, by another thread, many in one write.
    Piped,
    /// The last sample of each device, by another thread, many in one write.
    Coalesced,
}

/// How bodies are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    /// `serde_json::Value`.
    Value,
    /// serde_json into structs.
    Typed,
    /// simd-json into structs, with buffers that are kept.
    Simd,
    /// sigmad's decoder.
    Scanner,
}

/// How values are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// From all values of the window, each time.
    Recomputed,
    /// From sums that are kept.
    Running,
}

/// How requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counters {
    /// Metrics looked up by their labels.
    Labelled,
    /// Counters of each thread, added up by the scrape.
    Local,
}

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The request, behind a mutex.
    Locked,
    /// A thread of its own, behind a channel.
    Thread,
}

/// How samples reach the analytics thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// A message for each request; names are found in maps.
    Names,
    /// A message for each request; names have become numbers.
    Ids,
    /// A block for each round; its sender wakes the thread.
    Blocks,
    /// A block for each round; the thread looks by itself.
    Doze,
}

/// What serves.
#[derive(Clone, Copy, Debug)]
pub enum Server {
    /// `benches/baseline/rust`, as it is.
    Baseline,
    /// axum, with parts.
    Web(WebParts),
    /// sigmad's engine, with parts.
    Epoll(EpollParts),
    /// sigmad, as it is.
    Sigmad,
    /// axum as one writes it who knows how.
    Axum,
    /// actix-web, likewise.
    Actix,
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    /// glibc's.
    System,
    /// mimalloc.
    Mimalloc,
}

/// One rung, or a server beside the ladder.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rung {
    /// From 0 at the foot; None beside the ladder.
    pub number: Option<usize>,
    /// For the command line and file names.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What was expected of the change.
    pub hypothesis: &'static str,
    /// What differs from the rung below.
    pub change: &'static str,
    /// What of sigmad came in with it.
    pub uses: &'static str,
    /// The change shows only with `--redis-url`.
    pub needs_redis: bool,
    /// Which of the two programs it is in.
    #[serde(serialize_with = "program")]
    pub allocator: Allocator,
    /// What serves.
    #[serde(skip)]
    pub server: Server,
}

fn program<S: serde::Serializer>(allocator: &Allocator, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match allocator {
        Allocator::System => "ladder",
        Allocator::Mimalloc => "ladder-mimalloc",
    })
}

const WEB: WebParts = WebParts {
    redis: Redis::Piped,
    json: Json::Value,
    statistics: Statistics::Recomputed,
    counters: Counters::Labelled,
    judge: Judge::Locked,
};
const COALESCED: WebParts = WebParts { redis: Redis::Coalesced, ..WEB };
const TYPED: WebParts = WebParts { json: Json::Typed, ..COALESCED };
const RUNNING: WebParts = WebParts { statistics: Statistics::Running, ..TYPED };
const LOCAL: WebParts = WebParts { counters: Counters::Local, ..RUNNING };
const THREAD: WebParts = WebParts { judge: Judge::Thread, ..LOCAL };

const EPOLL: EpollParts =
    EpollParts { json: Json::Typed, handover: Handover::Names, is_pinned: false };
const IDS: EpollParts = EpollParts { handover: Handover::Ids, ..EPOLL };
const BLOCKS: EpollParts = EpollParts { handover: Handover::Blocks, ..IDS };
const DOZE: EpollParts = EpollParts { handover: Handover::Doze, ..BLOCKS };
const SIMD: EpollParts = EpollParts { json: Json::Simd, ..DOZE };
const SCANNER: EpollParts = EpollParts { json: Json::Scanner, ..SIMD };
const PINNED: EpollParts = EpollParts { is_pinned: true, ..SCANNER };

const NOTHING: Rung = Rung {
    number: None,
    name: "",
    title: "",
    hypothesis: "",
    change: "",
    uses: "",
    needs_redis: false,
    allocator: Allocator::System,
    server: Server::Baseline,
};

/// From the baseline to sigmad, then those beside the ladder.
pub const RUNGS: [Rung; 18] = [
    Rung {
        number: Some(0),
        name: "baseline",
        title: "The server one would write first",
        hypothesis: "Clear code on good crates is fast enough.",
        change: "Nothing yet: axum, serde_json::Value, windows behind a mutex and recomputed for every value, a SET awaited for each sample, labelled metrics.",
        ..NOTHING
    },
    Rung {
        number: Some(1),
        name: "redis-writer",
        title: "Redis off the request's path",
        hypothesis: "A request that waits for Redis costs a round trip, and two more system calls on each side; a writer that sends many SETs in one write costs a fraction.",
        change: "Samples go to a thread that writes ten times a second, 512 SETs in one pipeline.",
        needs_redis: true,
        server: Server::Web(WEB),
        ..NOTHING
    },
    Rung {
        number: Some(2),
        name: "last-value",
        title: "Redis keeps the last value, so only that is written",
        hypothesis: "Of a device's samples within a tenth of a second Redis keeps the last: the others need not be sent.",
        change: "The writer keeps the last sample of each key until it writes.",
        needs_redis: true,
        server: Server::Web(COALESCED),
        ..NOTHING
    },
    Rung {
        number: Some(3),
        name: "typed-json",
        title: "Structs instead of Value",
        hypothesis: "A map, its keys and its values on the heap for each sample are most of the parser's time.",
        change: "serde_json reads into a struct; the answer is written from one.",
        server: Server::Web(TYPED),
        ..NOTHING
    },
    Rung {
        number: Some(4),
        name: "running-sums",
        title: "Sums that are kept instead of recomputed",
        hypothesis: "Two passes over 50 values for each value, and a third for the gauge, become a few additions.",
        change: "Windows keep their sums, rebased once per turn of the ring.",
        uses: "detectors::window, detectors::zscore",
        server: Server::Web(RUNNING),
        ..NOTHING
    },
    Rung {
        number: Some(5),
        name: "local-counters",
        title: "Counters of each thread instead of labels",
        hypothesis: "Hashing labels, a read lock and a locked add for each of seven metrics cost more than judging the sample.",
        change: "Each thread adds to counters of its own with plain loads and stores; the scrape adds them up and computes the gauges.",
        uses: "counters",
        server: Server::Web(LOCAL),
        ..NOTHING
    },
    Rung {
        number: Some(6),
        name: "analytics-thread",
        title: "A channel to an analytics thread instead of the mutex",
        hypothesis: "No request waits for another's window. With one worker there is nobody to wait for, and waking the thread for each request costs more than the mutex did: a step back that the next rungs need.",
        change: "Samples go through a bounded crossbeam channel to a thread that blocks on it, a message for each request.",
        server: Server::Web(THREAD),
        ..NOTHING
    },
    Rung {
        number: Some(7),
        name: "epoll",
        title: "An event loop of our own instead of axum",
        hypothesis: "Routing, extractors, tasks, header maps and a write for each answer cost more than the request; one loop that reads, answers and writes once per connection and round costs a fraction, and pipelined requests share system calls.",
        change: "sigmad's epoll engine calls the same code in place of axum, hyper and tokio.",
        uses: "http",
        server: Server::Epoll(EPOLL),
        ..NOTHING
    },
    Rung {
        number: Some(8),
        name: "ids",
        title: "Numbers instead of names",
        hypothesis: "A name hashed by SipHash and a String made for each sample, and maps of maps behind the channel, cost more than the arithmetic; a number found once leads straight to the window.",
        change: "The registry turns names into ids at the edge; analytics finds streams by index in an arena.",
        uses: "registry, sample, analytics",
        server: Server::Epoll(IDS),
        ..NOTHING
    },
    Rung {
        number: Some(9),
        name: "blocks",
        title: "A block for each round instead of a message for each request",
        hypothesis: "Samples that travel together share the hand-over, and blocks that come back need no allocation.",
        change: "Lanes: one block of up to 128 samples at the end of each round; its sender wakes the thread if it is parked.",
        uses: "sample_queue",
        server: Server::Epoll(BLOCKS),
        ..NOTHING
    },
    Rung {
        number: Some(10),
        name: "doze",
        title: "The analytics thread looks by itself",
        hypothesis: "Under load a wake-up for each round costs the worker a system call and the machine a context switch; a thread that looks every 0.9 ms costs the worker nothing.",
        change: "Between blocks the thread sleeps by timer; it parks only when nothing has come for 4 ms.",
        uses: "sample_queue::Sleeper",
        server: Server::Epoll(DOZE),
        ..NOTHING
    },
    Rung {
        number: Some(11),
        name: "simd-json",
        title: "A SIMD parser instead of serde_json",
        hypothesis: "simd-json parses gigabytes a second. On bodies of 50 bytes its set-up may cost more than it saves.",
        change: "simd-json reads into the same structs, in place, with buffers that are kept.",
        server: Server::Epoll(SIMD),
        ..NOTHING
    },
    Rung {
        number: Some(12),
        name: "scanner",
        title: "A scanner of the usual sample",
        hypothesis: "Nearly every sample is one flat object of known keys and short numbers: read eight bytes at a time straight into a batch, it needs no tree, no String and no lock.",
        change: "sigmad's decoder: the scanner in front, simd-json for what is unusual, names found in a cache of the worker.",
        uses: "decode",
        server: Server::Epoll(SCANNER),
        ..NOTHING
    },
    Rung {
        number: Some(13),
        name: "mimalloc",
        title: "mimalloc instead of glibc's malloc",
        hypothesis: "With nothing allocated per sample any more the allocator should make no difference.",
        change: "The global allocator, with the sampling of the heap that sigmad has around it.",
        uses: "profile::heap around mimalloc, as in sigmad's binary",
        allocator: Allocator::Mimalloc,
        server: Server::Epoll(SCANNER),
        ..NOTHING
    },
    Rung {
        number: Some(14),
        name: "pinned",
        title: "Threads stay on their cores",
        hypothesis: "A thread that moves finds a cold cache. On one core there is nowhere to move to.",
        change: "Worker and analytics thread are pinned, each to a core of its own where there are two.",
        uses: "as layout does",
        allocator: Allocator::Mimalloc,
        server: Server::Epoll(PINNED),
        ..NOTHING
    },
    Rung {
        number: Some(15),
        name: "sigmad",
        title: "sigmad itself",
        hypothesis: "What the product adds to the bare path (all routes, tokens, limits, stage timings, /latest, the live page, its own pinning rules) should cost next to nothing.",
        change: "sigmad's own server, as `sigmad serve` starts it.",
        uses: "all of it",
        allocator: Allocator::Mimalloc,
        server: Server::Sigmad,
        ..NOTHING
    },
    Rung {
        name: "axum",
        title: "axum, as one writes it who knows how",
        change: "Typed serde, a channel to an analytics thread with sigmad's windows, counters of each thread, mimalloc.",
        uses: "analytics, tally",
        allocator: Allocator::Mimalloc,
        server: Server::Axum,
        ..NOTHING
    },
    Rung {
        name: "actix",
        title: "actix-web, as one writes it who knows how",
        change: "The same on actix-web.",
        uses: "analytics, tally",
        allocator: Allocator::Mimalloc,
        server: Server::Actix,
        ..NOTHING
    },
];

/// The rung of that number or name.
pub fn find(wanted: &str) -> Option<&'static Rung> {
    let number = wanted.parse::<usize>().ok();
    RUNGS.iter().find(|rung| rung.name == wanted || (number.is_some() && rung.number == number))
}

/// All of them, as JSON.
pub fn list() -> String {
    serde_json::to_string_pretty(&RUNGS).expect("strings and numbers")
}
