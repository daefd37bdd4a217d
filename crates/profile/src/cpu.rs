//! CPU profiles: the choice of a sampler, the recording, and the share of CPU time it captured.

use std::io;
use std::time::Duration;

use super::capture::CUT;
use super::perf::PerfSampler;
use super::pprof_crate::PprofCrate;
use super::proto::{self, ProfileHeader, ProfileSample};
use super::samples::ProfileSamples;
use super::symbols::Symbols;
use super::timer::TimerSampler;
use super::unwind::Unwinder;
use sigmad_clock::Clock;

/// Between two looks at what was sampled: the rings of perf hold as much at 1,000 Hz.
const LOOK: Duration = Duration::from_millis(4);
const NS_PER_S: u64 = 1_000_000_000;

/// What samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The first of the others that the kernel allows, in their options.
    Auto,
    /// `perf_event_open`: the kernel samples, and tells its own functions too.
    Perf,
    /// A CPU clock for each thread, which signals it.
    Timer,
    /// The pprof crate: one clock for all threads.
    Pprof,
}

impl Backend {
    /// As queries and profiles call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Perf => "perf",
            Self::Timer => "timer",
            Self::Pprof => "pprof",
        }
    }
}

/// What is asked for, within its bounds.
#[derive(Clone, Copy, Debug)]
pub struct ProfileOptions {
    /// How long.
    pub seconds: u64,
    /// Samples per second of CPU time; never 0.
    pub hz: u64,
    /// By what.
    pub backend: Backend,
}

/// One of the samplers, at work.
enum ActiveSampler {
    Perf(PerfSampler),
    Timer(TimerSampler),
    Pprof(PprofCrate),
}

/// A CPU profile that is being taken.
pub struct Recording {
    sampler: ActiveSampler,
    samples: ProfileSamples,
    symbols: Symbols,
    unwinder: Unwinder,
    options: ProfileOptions,
    /// Why a sampler that comes earlier was passed over.
    passed_over: Option<String>,
    clock: Clock,
    start_ns: u64,
    wall_us: i64,
    cpu_ns: u64,
}

/// A CPU profile.
pub struct CpuProfile {
    samples: ProfileSamples,
    symbols: Symbols,
    period_ns: u64,
    wall_us: i64,
    duration_ns: u64,
    /// Sentences for people: what sampled, and how much it caught.
    pub comments: Vec<String>,
}

impl Recording {
    /// Begins to sample.
    ///
    /// # Errors
    /// When what was asked for can't.
    pub fn begin(options: ProfileOptions, mut clock: Clock) -> io::Result<Self> {
        assert!(options.hz > 0, "a sampler that never samples");
        let period_ns = NS_PER_S / options.hz;
        let symbols = Symbols::of_this_process();
        let unwinder = Unwinder::new(&symbols);
        let now = clock.now();
        let timers =
            || TimerSampler::start(period_ns, now.wall_us as u64).map(ActiveSampler::Timer);
        let perf = || PerfSampler::start(period_ns).map(ActiveSampler::Perf);
        let mut passed_over = None;
        let sampler = match options.backend {
            Backend::Perf => perf()?,
            Backend::Timer => timers()?,
            Backend::Pprof => ActiveSampler::Pprof(PprofCrate::start(options.hz)?),
            Backend::Auto => match perf() {
                Ok(sampler) => sampler,
                Err(error) => {
                    passed_over = Some(format!("perf can't: {error}"));
                    timers()?
                }
            },
        };
        // What the sampler took to start is not its to see.
        let cpu_ns = cpu_ns()?;
        Ok(Self {
            sampler,
            samples: ProfileSamples::default(),
            symbols,
            unwinder,
            options,
            passed_over,
            start_ns: clock.monotonic_ns(),
            wall_us: now.wall_us,
            clock,
            cpu_ns,
        })
    }

    /// Samples until the time is over, or `is_over`.
    ///
    /// # Errors
    /// When the sampler could not tell what it found.
    pub fn record(mut self, is_over: impl Fn() -> bool) -> io::Result<CpuProfile> {
        let end_ns = self.start_ns + self.options.seconds * NS_PER_S;
        loop {
            let left_ns = end_ns.saturating_sub(self.clock.monotonic_ns());
            if left_ns == 0 || is_over() {
                break;
            }
            std::thread::sleep(LOOK.min(Duration::from_nanos(left_ns)));
            match &mut self.sampler {
                ActiveSampler::Perf(perf) => perf.look(&mut self.samples, &mut self.unwinder),
                ActiveSampler::Timer(timers) => timers.look(&mut self.samples, &mut self.unwinder),
                ActiveSampler::Pprof(_) => {}
            }
        }
        self.end()
    }

    fn end(self) -> io::Result<CpuProfile> {
        let Self { sampler, mut samples, mut symbols, mut unwinder, options, .. } = self;
        let backend = match sampler {
            ActiveSampler::Perf(perf) => {
                perf.end(&mut samples, &mut unwinder);
                Backend::Perf
            }
            ActiveSampler::Timer(mut timers) => {
                timers.look(&mut samples, &mut unwinder);
                Backend::Timer
            }
            ActiveSampler::Pprof(pprof) => {
                pprof.end(&mut samples, &mut symbols, NS_PER_S / options.hz)?;
                Backend::Pprof
            }
        };
        let cpu_ns = cpu_ns()? - self.cpu_ns;
        let duration_ns = self.clock.monotonic_ns() - self.start_ns;
        let total = samples.total();
        let share = |ns: u64| if cpu_ns == 0 { 1.0 } else { ns as f64 / cpu_ns as f64 };
        let period_ns = NS_PER_S / options.hz;
        let captured = share(total.count * period_ns);
        let mut comments = vec![format!(
            "backend={} hz={} samples={} lost={} captured={captured:.3} of {:.3} s of CPU time in {:.3} s",
            backend.name(),
            options.hz,
            total.count,
            samples.lost,
            cpu_ns as f64 / 1e9,
            duration_ns as f64 / 1e9,
        )];
        // Not what was seen, but what it was taken to stand for.
        if backend == Backend::Perf {
            comments.push(format!(
                "scaled={:.3} to the CPU clock of each thread: samples miss the switches to it, and count what a hypervisor takes",
                share(total.ns)
            ));
        }
        comments.extend(self.passed_over);
        if samples.cut > 0 {
            comments.push(format!("{} stacks are cut; {CUT}", samples.cut));
        }
        Ok(CpuProfile { samples, symbols, period_ns, wall_us: self.wall_us, duration_ns, comments })
    }
}

impl CpuProfile {
    /// As `go tool pprof` reads it.
    pub fn encode(&mut self) -> Vec<u8> {
        let about = ProfileHeader {
            sample_types: &[("samples", "count"), ("cpu", "nanoseconds")],
            default_sample_type: "cpu",
            period_type: ("cpu", "nanoseconds"),
            period: self.period_ns as i64,
            wall_us: self.wall_us,
            duration_ns: self.duration_ns,
            comments: &self.comments,
        };
        let stacks: Vec<_> = self
            .samples
            .iter()
            .map(|(thread, stack, weight)| {
                (stack, [weight.count as i64, weight.ns as i64], [("thread", thread)])
            })
            .collect();
        let samples = stacks.iter().map(|(stack, values, labels)| ProfileSample {
            stack,
            is_leaf_exact: true,
            values,
            labels,
        });
        proto::encode(&about, samples, &mut self.symbols)
    }

    /// Lines as flamegraphs are made of: thread, functions from the root on, microseconds.
    pub fn fold(&mut self) -> Vec<String> {
        let Self { samples, symbols, .. } = self;
        let mut lines = Vec::new();
        for (thread, stack, weight) in samples.iter() {
            let sample = ProfileSample { stack, is_leaf_exact: true, values: &[], labels: &[] };
            let mut line = thread.replace([';', ' '], "_");
            for place in (0..stack.len()).rev() {
                for frame in symbols.resolve(proto::address_at(&sample, place)).iter().rev() {
                    line.push(';');
                    // A semicolon parts functions.
                    line.push_str(&frame.function.replace(';', ":"));
                }
            }
            let us = weight.ns / 1_000;
            line.push_str(&format!(" {us}"));
            lines.push(line);
        }
        lines
    }

    /// How long it took.
    pub fn duration_ns(&self) -> u64 {
        self.duration_ns
    }
}

/// The CPU time that this process has had.
fn cpu_ns() -> io::Result<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a live rusage, which the call fills.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are an rusage, and the call has filled it.
    let usage = unsafe { usage.assume_init() };
    let ns = |time: libc::timeval| time.tv_sec as u64 * NS_PER_S + time.tv_usec as u64 * 1_000;
    Ok(ns(usage.ru_utime) + ns(usage.ru_stime))
}
