//! Histograms: their buckets, the change between two of them, and its quantiles. Pure.
//!
//! Every kind of histogram becomes a list of buckets by their bounds, so that the rest need not know kinds.

use super::rates::Point;

/// Buckets of one histogram: three times what an SDK of OpenTelemetry sends (160). Past it there are no quantiles.
pub(super) const BUCKETS_MAX: usize = 512;

/// How the counts of a histogram are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporality {
    /// Since the sender started.
    Cumulative,
    /// Since the histogram before.
    Delta,
}

/// A whole histogram at one time.
#[derive(Clone, Copy, Debug)]
pub struct HistogramPoint<'a> {
    /// How its counts are meant.
    pub temporality: Temporality,
    /// How many values it has.
    pub count: f64,
    /// Their sum, if the sender knows it.
    pub sum: Option<f64>,
    /// How they are distributed.
    pub buckets: Buckets<'a>,
}

/// The buckets of a histogram.
#[derive(Clone, Copy, Debug)]
pub enum Buckets<'a> {
    /// Count and sum only.
    None,
    /// Bounds of the sender's choice.
    Explicit {
        /// Upper bounds, ascending, without infinity.
        bounds: &'a [f64],
        /// The count of each bucket alone; one more than bounds.
        counts: &'a [f64],
    },
    /// Bounds that grow by a factor: Prometheus's native histograms, and OpenTelemetry's exponential ones.
    Exponential {
        /// The bounds of bucket `i` are base^(i-1) and base^i, with base 2^(2^-schema). OpenTelemetry counts from one less.
        schema: i32,
        /// Values up to this magnitude are in the zero bucket.
        zero_threshold: f64,
        /// The count of the zero bucket.
        zero_count: f64,
        /// Index and count of positive buckets, ascending.
        positive: &'a [(i32, f64)],
        /// Index, by magnitude, and count of negative buckets, ascending.
        negative: &'a [(i32, f64)],
    },
}

/// One bucket: values above `lower`, up to `upper`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) lower: f64,
    pub(super) upper: f64,
    pub(super) count: f64,
}

/// Two histograms have different buckets, or the later one has fewer values somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unrelated;

impl Buckets<'_> {
    /// Writes the buckets in ascending order; none if there are too many, or if counts are missing.
    pub(super) fn write(&self, buckets: &mut Vec<Bucket>) {
        buckets.clear();
        match *self {
            Self::None => {}
            Self::Explicit { bounds, counts } => {
                if counts.len() != bounds.len() + 1 || counts.len() > BUCKETS_MAX {
                    return;
                }
                let uppers = bounds.iter().copied().chain([f64::INFINITY]);
                let mut lower = f64::NEG_INFINITY;
                for (upper, &count) in uppers.zip(counts) {
                    buckets.push(Bucket { lower, upper, count });
                    lower = upper;
                }
            }
            Self::Exponential { schema, zero_threshold, zero_count, positive, negative } => {
                if positive.len() + negative.len() + 1 > BUCKETS_MAX {
                    return;
                }
                let bound = |index: f64| (index * f64::from(-schema).exp2()).exp2();
                for &(index, count) in negative.iter().rev() {
                    let (inner, outer) = (f64::from(index) - 1.0, f64::from(index));
                    buckets.push(Bucket { lower: -bound(outer), upper: -bound(inner), count });
                }
                let lower = if negative.is_empty() { 0.0 } else { -zero_threshold };
                let upper =
                    if positive.is_empty() && !negative.is_empty() { 0.0 } else { zero_threshold };
                if zero_count > 0.0 {
                    buckets.push(Bucket { lower, upper, count: zero_count });
                }
                for &(index, count) in positive {
                    let (inner, outer) = (f64::from(index) - 1.0, f64::from(index));
                    buckets.push(Bucket { lower: bound(inner), upper: bound(outer), count });
                }
            }
        }
    }

    pub(super) const fn is_exponential(&self) -> bool {
        matches!(self, Self::Exponential { .. })
    }
}

/// Writes the counts of `later` less those of `earlier`; a bucket that `earlier` lacks was empty.
pub(super) fn write_change(
    earlier: &[Bucket],
    later: &[Bucket],
    change: &mut Vec<Bucket>,
) -> Result<(), Unrelated> {
    change.clear();
    let mut rest = earlier.iter().peekable();
    for bucket in later {
        let mut count = bucket.count;
        if let Some(known) = rest.next_if(|known| known.upper <= bucket.upper) {
            // Zero buckets may reach further to a side than before.
            if known.upper != bucket.upper || known.lower < bucket.lower {
                return Err(Unrelated);
            }
            count -= known.count;
        }
        if count < 0.0 {
            return Err(Unrelated);
        }
        change.push(Bucket { count, ..*bucket });
    }
    // What has gone held values.
    if rest.any(|known| known.count > 0.0) { Err(Unrelated) } else { Ok(()) }
}

/// The quantile `q` of the values in `buckets`, as Prometheus's `histogram_quantile` estimates it: linear within a
/// bucket, exponential within a bucket of an exponential histogram (`promql/quantile.go`, Prometheus 3). None without
/// values.
pub(super) fn quantile(q: f64, buckets: &[Bucket], is_exponential: bool) -> Option<f64> {
    let total: f64 = buckets.iter().map(|bucket| bucket.count).sum();
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let mut below = 0.0;
    for (index, &Bucket { lower, upper, count }) in buckets.iter().enumerate() {
        if count <= 0.0 || below + count < rank {
            below += count;
            continue;
        }
        if upper == f64::INFINITY {
            // The highest bound that is known.
            return Some(lower).filter(|lower| lower.is_finite());
        }
        if index == 0 && lower == f64::NEG_INFINITY && upper <= 0.0 {
            return Some(upper);
        }
        let lower = if lower == f64::NEG_INFINITY { 0.0 } else { lower };
        let fraction = (rank - below) / count;
        let is_geometric = is_exponential && (lower > 0.0 || upper < 0.0);
        return Some(if is_geometric {
            lower * (upper / lower).powf(fraction)
        } else {
            lower + (upper - lower) * fraction
        });
    }
    None
}

/// One bucket of a histogram whose buckets are series of their own, or its sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    /// `_bucket`, with the bound in its label `le`: values up to the bound, also those of lower buckets.
    Bucket(f64),
    /// `_sum`.
    Sum,
}

/// A histogram whose parts come one by one.
///
/// It is complete at a time when as many parts have come as there were before. What the first time has is known when
/// the next one begins.
#[derive(Debug)]
pub(super) struct Assembly {
    /// Bounds ascending, with the last point of each.
    buckets: Vec<(f64, Point)>,
    sum: Option<Point>,
    time_us: i64,
    fresh: usize,
    is_learned: bool,
}

impl Default for Assembly {
    fn default() -> Self {
        Self { buckets: Vec::new(), sum: None, time_us: i64::MIN, fresh: 0, is_learned: false }
    }
}

/// What a part makes of its histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assembled {
    /// Other parts are missing.
    Partly,
    /// All parts of this time are here.
    Whole,
    /// The part is older than others.
    Old,
    /// Too many buckets.
    Full,
}

impl Assembly {
    /// Whether a part begins a new time, so that what is there is all that its time has.
    pub(super) fn ends_before(&self, time_us: i64) -> bool {
        self.fresh > 0 && time_us > self.time_us && !(self.is_learned && self.is_whole())
    }

    /// Forgets parts that the present time does not have.
    pub(super) fn keep_fresh(&mut self) {
        let time_us = self.time_us;
        self.buckets.retain(|(_, point)| point.time_us == time_us);
        self.sum = self.sum.filter(|sum| sum.time_us == time_us);
    }

    fn is_whole(&self) -> bool {
        self.fresh == self.buckets.len() + usize::from(self.sum.is_some())
    }

    /// Takes a part.
    pub(super) fn take(&mut self, part: Part, point: Point) -> Assembled {
        if point.time_us < self.time_us {
            return Assembled::Old;
        }
        if point.time_us > self.time_us {
            self.is_learned = self.fresh > 0;
            (self.time_us, self.fresh) = (point.time_us, 0);
        }
        let before = match part {
            Part::Sum => self.sum.replace(point),
            Part::Bucket(bound) => {
                match self.buckets.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
                    Ok(at) => Some(std::mem::replace(&mut self.buckets[at].1, point)),
                    Err(_) if self.buckets.len() == BUCKETS_MAX => return Assembled::Full,
                    Err(at) => {
                        self.buckets.insert(at, (bound, point));
                        None
                    }
                }
            }
        };
        if before.is_none_or(|before| before.time_us != point.time_us) {
            self.fresh += 1;
        }
        if self.is_learned && self.is_whole() { Assembled::Whole } else { Assembled::Partly }
    }

    pub(super) fn time_us(&self) -> i64 {
        self.time_us
    }

    pub(super) fn sum(&self) -> Option<f64> {
        self.sum.map(|sum| sum.value)
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Writes the buckets, each without those below it.
    pub(super) fn write(&self, buckets: &mut Vec<Bucket>) {
        buckets.clear();
        let (mut lower, mut below) = (f64::NEG_INFINITY, 0.0);
        for &(upper, Point { value, .. }) in &self.buckets {
            // Counts of a scrape can be from different moments.
            buckets.push(Bucket { lower, upper, count: (value - below).max(0.0) });
            (lower, below) = (upper, value.max(below));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(buckets: Buckets<'_>) -> Vec<Bucket> {
        let mut list = Vec::new();
        buckets.write(&mut list);
        list
    }

    fn explicit(bounds: &[f64], counts: &[f64]) -> Vec<Bucket> {
        list(Buckets::Explicit { bounds, counts })
    }

    fn native(
        schema: i32,
        zero_count: f64,
        positive: &[(i32, f64)],
        negative: &[(i32, f64)],
    ) -> Vec<Bucket> {
        let zero_threshold = 0.5;
        list(Buckets::Exponential { schema, zero_threshold, zero_count, positive, negative })
    }

    /// As `histogram_quantile` of Prometheus gives them for the same buckets.
    #[test]
    fn quantiles_are_those_of_prometheus() {
        for (bounds, counts, q, expected) in [
            (&[1.0, 2.0][..], &[10.0, 10.0, 0.0][..], 0.5, Some(1.0)),
            (&[1.0, 2.0], &[10.0, 10.0, 0.0], 0.75, Some(1.5)),
            (&[1.0, 2.0], &[10.0, 0.0, 0.0], 0.5, Some(0.5)),
            (&[1.0, 2.0], &[0.0, 0.0, 4.0], 0.99, Some(2.0)),
            (&[-1.0, 2.0], &[5.0, 0.0, 0.0], 0.5, Some(-1.0)),
            (&[1.0], &[0.0, 0.0], 0.5, None),
            (&[], &[7.0], 0.5, None),
        ] {
            assert_eq!(quantile(q, &explicit(bounds, counts), false), expected, "{counts:?}");
        }
        // One bucket from 1 to 2, in which p50 is the geometric middle.
        let one = native(0, 0.0, &[(1, 8.0)], &[]);
        let middle = quantile(0.5, &one, true).expect("values");
        assert!((middle - 2_f64.sqrt()).abs() < 1e-12);
        assert_eq!(quantile(0.5, &native(0, 4.0, &[], &[]), true), Some(0.25));
        assert_eq!(quantile(0.5, &native(0, 4.0, &[(1, 1.0)], &[(1, 1.0)]), true), Some(0.0));
        let below = quantile(0.25, &native(0, 0.0, &[(3, 2.0)], &[(1, 2.0)]), true);
        assert!(below.is_some_and(|below| (below + 2_f64.sqrt()).abs() < 1e-12));
    }

    #[test]
    fn a_change_needs_the_same_buckets() {
        let mut change = Vec::new();
        let mut counts = |earlier: &[Bucket], later: &[Bucket]| {
            write_change(earlier, later, &mut change)
                .map(|()| change.iter().map(|bucket| bucket.count).collect::<Vec<_>>())
        };
        let before = explicit(&[1.0, 2.0], &[1.0, 2.0, 3.0]);
        assert_eq!(
            counts(&before, &explicit(&[1.0, 2.0], &[1.0, 5.0, 4.0])),
            Ok(vec![0.0, 3.0, 1.0])
        );
        assert_eq!(counts(&before, &explicit(&[1.0, 2.0], &[0.0, 5.0, 4.0])), Err(Unrelated));
        assert_eq!(counts(&before, &explicit(&[1.0, 3.0], &[1.0, 5.0, 4.0])), Err(Unrelated));
        let before = native(0, 1.0, &[(1, 1.0), (3, 1.0)], &[]);
        let after = native(0, 2.0, &[(1, 1.0), (2, 4.0), (3, 2.0)], &[]);
        assert_eq!(counts(&before, &after), Ok(vec![1.0, 0.0, 4.0, 1.0]));
        assert_eq!(counts(&after, &before), Err(Unrelated));
        assert_eq!(counts(&before, &native(1, 2.0, &[(1, 9.0)], &[])), Err(Unrelated));
    }

    #[test]
    fn too_many_buckets_give_none() {
        let bounds: Vec<_> = (0..BUCKETS_MAX).map(|bound| bound as f64).collect();
        assert_eq!(explicit(&bounds, &vec![1.0; BUCKETS_MAX + 1]), []);
        assert_eq!(explicit(&bounds[1..], &vec![1.0; BUCKETS_MAX]).len(), BUCKETS_MAX);
        assert_eq!(explicit(&[1.0], &[1.0]), []);
    }
}
