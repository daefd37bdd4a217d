//! Query parameters. Unknown ones are ignored; an error names an invalid one.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;

use smallvec::SmallVec;

use super::errors::ApiError;
use crate::analytics::report::{DEVICES_REPORTED_MAX, DevicesSort, SAMPLES_REPORTED_MAX, Scope};
use crate::dashboard::day::DayRange;
use sigmad_clock::Now;
use sigmad_incidents::incident::{IncidentId, Severity, State};
use sigmad_profile::cpu::{Backend, ProfileOptions};
use sigmad_sample::timestamp;
use sigmad_sample::{METRIC_BYTES_MAX, NAME_BYTES_MAX, is_metric_name, is_name};

/// Rows of a list without `limit`.
pub const LIMIT_DEFAULT: usize = 100;
/// The analytics thread copies the rows, so their number is bounded.
pub const LIMIT_MAX: usize = 1_000;
/// Series that one client of `/events` chooses: as many as a page has charts for.
pub const SERIES_CHOSEN_MAX: usize = 8;
/// Points of a history: a chart has one or two pixels for each.
const POINTS_DEFAULT: u64 = 720;
/// More points than a screen has pixels for.
const POINTS_ASKED_MAX: u64 = 1_440;
const HOUR_US: i64 = 3_600_000_000;
/// The defaults of Go.
const PROFILE_SECONDS: u64 = 30;
const PROFILE_HZ: u64 = 100;
/// A longer profile is several profiles.
const SECONDS: RangeInclusive<u64> = 1..=300;
/// At a higher rate the samplers would profile themselves.
const HZ: RangeInclusive<u64> = 1..=1_000;
const _: () = assert!(LIMIT_MAX <= DEVICES_REPORTED_MAX && LIMIT_MAX <= SAMPLES_REPORTED_MAX);

/// The first parameter of that name, in a query string or a form.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    form_urlencoded::parse(query.as_bytes())
        .find_map(|(known, value)| (known == name).then_some(value))
}

/// The parameters of all routes; of several with one name the first one counts, but for `series`.
#[derive(Debug, Default)]
pub struct Query<'a> {
    device: Option<Cow<'a, str>>,
    scope: Option<Cow<'a, str>>,
    limit: Option<Cow<'a, str>>,
    sort: Option<Cow<'a, str>>,
    search: Option<Cow<'a, str>>,
    series: SmallVec<[Cow<'a, str>; 1]>,
    since: Option<Cow<'a, str>>,
    seconds: Option<Cow<'a, str>>,
    hz: Option<Cow<'a, str>>,
    backend: Option<Cow<'a, str>>,
    debug: Option<Cow<'a, str>>,
    format: Option<Cow<'a, str>>,
    state: Option<Cow<'a, str>>,
    severity: Option<Cow<'a, str>>,
    after: Option<Cow<'a, str>>,
    from: Option<Cow<'a, str>>,
    to: Option<Cow<'a, str>>,
    points: Option<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    /// Splits the string; the methods below check the values.
    pub fn new(query: &'a str) -> Self {
        let mut known = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name == "series" {
                known.series.push(value);
                continue;
            }
            let parameter = match &*name {
                "device" => &mut known.device,
                "scope" => &mut known.scope,
                "limit" => &mut known.limit,
                "sort" => &mut known.sort,
                "search" => &mut known.search,
                "since" => &mut known.since,
                "seconds" => &mut known.seconds,
                "hz" => &mut known.hz,
                "backend" => &mut known.backend,
                "debug" => &mut known.debug,
                "format" => &mut known.format,
                "state" => &mut known.state,
                "severity" => &mut known.severity,
                "after" => &mut known.after,
                "from" => &mut known.from,
                "to" => &mut known.to,
                "points" => &mut known.points,
                _ => continue,
            };
            parameter.get_or_insert(value);
        }
        known
    }

    /// The name of a device.
    pub fn device(&self) -> Result<Option<&str>, ApiError<'static>> {
        name("device", self.device.as_deref())
    }

    /// A part of the names of devices.
    pub fn search(&self) -> Result<Option<&str>, ApiError<'static>> {
        name("search", self.search.as_deref())
    }

    /// A part of the names of series.
    pub fn search_series(&self) -> Result<Option<&str>, ApiError<'static>> {
        match self.search.as_deref() {
            Some(text) if !is_metric_name(text) => Err(series_error("search")),
            text => Ok(text),
        }
    }

    /// The names of series, each as often as it was given.
    pub fn series(&self) -> Result<Arc<[Box<str>]>, ApiError<'static>> {
        if self.series.len() > SERIES_CHOSEN_MAX {
            let allowed = "given at most 8 times";
            const _: () = assert!(SERIES_CHOSEN_MAX == 8);
            return Err(ApiError::Parameter { name: "series", allowed });
        }
        if !self.series.iter().all(|name| is_metric_name(name)) {
            return Err(series_error("series"));
        }
        Ok(self.series.iter().map(|name| Box::from(&**name)).collect())
    }

    /// True with a number of rows.
    pub fn has_limit(&self) -> bool {
        self.limit.is_some()
    }

    /// The scope of windows. The default is the cluster if replicas share windows.
    pub fn scope(&self, is_shared: bool) -> Result<Scope, ApiError<'static>> {
        let allowed = match (self.scope.as_deref(), is_shared) {
            (None | Some("cluster"), true) => return Ok(Scope::Cluster),
            (None, false) | (Some("local"), _) => return Ok(Scope::Local),
            (Some(_), true) => "cluster or local",
            (Some(_), false) => "local: without --redis-url there is no cluster",
        };
        Err(ApiError::Parameter { name: "scope", allowed })
    }

    /// The number of rows.
    pub fn limit(&self) -> Result<usize, ApiError<'static>> {
        let error = ApiError::Parameter { name: "limit", allowed: "a number from 1 to 1000" };
        const _: () = assert!(LIMIT_MAX == 1_000);
        let Some(text) = self.limit.as_deref() else { return Ok(LIMIT_DEFAULT) };
        within(text, 1..=LIMIT_MAX as u64).map(|limit| limit as usize).ok_or(error)
    }

    /// The order of rows.
    pub fn sort(&self) -> Result<DevicesSort, ApiError<'static>> {
        match self.sort.as_deref() {
            None | Some("score") => Ok(DevicesSort::Score),
            Some("last_seen") => Ok(DevicesSort::LastSeen),
            Some("anomalies") => Ok(DevicesSort::Anomalies),
            Some("device") => Ok(DevicesSort::Device),
            Some(_) => {
                let allowed = "score, last_seen, anomalies or device";
                Err(ApiError::Parameter { name: "sort", allowed })
            }
        }
    }

    /// The CPU profile.
    pub fn order(&self) -> Result<ProfileOptions, ApiError<'static>> {
        let backend = match self.backend.as_deref() {
            None | Some("auto") => Backend::Auto,
            Some("perf") => Backend::Perf,
            Some("timer") => Backend::Timer,
            Some("pprof") => Backend::Pprof,
            Some(_) => {
                let allowed = "auto, perf, timer or pprof";
                return Err(ApiError::Parameter { name: "backend", allowed });
            }
        };
        let error = ApiError::Parameter { name: "hz", allowed: "a whole number from 1 to 1000" };
        const _: () = assert!(*HZ.start() == 1 && *HZ.end() == 1_000);
        let hz = self.hz.as_deref().map_or(Ok(PROFILE_HZ), |text| within(text, HZ).ok_or(error))?;
        let seconds = self.seconds()?.unwrap_or(PROFILE_SECONDS);
        Ok(ProfileOptions { seconds, hz, backend })
    }

    /// The duration of a heap profile, if given.
    pub fn span_s(&self) -> Result<Option<u64>, ApiError<'static>> {
        if self.seconds.is_some() && self.is_text() {
            return Err(ApiError::Parameter { name: "seconds", allowed: "absent beside `debug`" });
        }
        self.seconds()
    }

    fn seconds(&self) -> Result<Option<u64>, ApiError<'static>> {
        let allowed = "a whole number from 1 to 300";
        const _: () = assert!(*SECONDS.start() == 1 && *SECONDS.end() == 300);
        let Some(text) = self.seconds.as_deref() else { return Ok(None) };
        let error = ApiError::Parameter { name: "seconds", allowed };
        within(text, SECONDS).ok_or(error).map(Some)
    }

    /// True for text, for people and not for tools.
    pub fn is_text(&self) -> bool {
        self.debug.as_deref().is_some_and(|debug| !matches!(debug, "" | "0"))
    }

    /// True for text, false for JSON; None leaves it to `Accept`.
    pub fn wants_text(&self) -> Result<Option<bool>, ApiError<'static>> {
        match self.format.as_deref() {
            None => Ok(None),
            Some("text") => Ok(Some(true)),
            Some("json") => Ok(Some(false)),
            Some(_) => Err(ApiError::Parameter { name: "format", allowed: "json or text" }),
        }
    }

    /// The state of incidents.
    pub fn state(&self) -> Result<Option<State>, ApiError<'static>> {
        let allowed = "open, acknowledged, silenced or resolved";
        let known = |text: &str| State::ALL.into_iter().find(|state| state.name() == text);
        chosen("state", self.state.as_deref(), known, allowed)
    }

    /// The severity of incidents.
    pub fn severity(&self) -> Result<Option<Severity>, ApiError<'static>> {
        let known = |text: &str| Severity::ALL.into_iter().find(|one| one.name() == text);
        chosen("severity", self.severity.as_deref(), known, "warning or critical")
    }

    /// The incident before the next page.
    pub fn after(&self) -> Result<Option<IncidentId>, ApiError<'static>> {
        let known = |text: &str| text.parse().ok();
        chosen("after", self.after.as_deref(), known, "the `next` of an answer")
    }

    /// The device before the next page.
    pub fn after_device(&self, sort: DevicesSort) -> Result<Option<&str>, ApiError<'static>> {
        let known = |text: &'_ str| match sort {
            DevicesSort::Device => is_name(text),
            DevicesSort::Score | DevicesSort::LastSeen | DevicesSort::Anomalies => false,
        };
        match self.after.as_deref() {
            Some(text) if !known(text) => {
                let allowed = "the `next` of an answer with sort=device";
                Err(ApiError::Parameter { name: "after", allowed })
            }
            after => Ok(after),
        }
    }

    /// Whether only what this replica knows is asked for. Without Redis both scopes are of this replica.
    pub fn is_local(&self) -> Result<bool, ApiError<'static>> {
        let known = |text: &str| match text {
            "cluster" => Some(false),
            "local" => Some(true),
            _ => None,
        };
        let scope = chosen("scope", self.scope.as_deref(), known, "cluster or local")?;
        Ok(scope.unwrap_or(false))
    }

    /// The earliest timestamp, in microseconds since 1970.
    pub fn since_us(&self) -> Result<i64, ApiError<'static>> {
        Ok(moment("since", self.since.as_deref())?.unwrap_or(i64::MIN))
    }

    /// The range of a history: the last hour by default.
    pub fn range(&self, now: Now) -> Result<DayRange, ApiError<'static>> {
        let allowed = "a whole number from 1 to 1440";
        const _: () = assert!(POINTS_ASKED_MAX == 1_440);
        let points = match self.points.as_deref() {
            None => POINTS_DEFAULT,
            Some(text) => within(text, 1..=POINTS_ASKED_MAX)
                .ok_or(ApiError::Parameter { name: "points", allowed })?,
        };
        let to_us = moment("to", self.to.as_deref())?.unwrap_or(now.wall_us);
        let from_us =
            moment("from", self.from.as_deref())?.unwrap_or(to_us.saturating_sub(HOUR_US));
        if from_us > to_us {
            return Err(ApiError::Parameter { name: "from", allowed: "not after `to`" });
        }
        Ok(DayRange::new(from_us, to_us, points as usize))
    }
}

/// A parameter that is a time, in microseconds since 1970.
fn moment(name: &'static str, text: Option<&str>) -> Result<Option<i64>, ApiError<'static>> {
    let allowed = "a time since 1970 in seconds, milliseconds, microseconds or nanoseconds, \
                   or as in RFC 3339";
    chosen(name, text, timestamp_us, allowed)
}

/// The value that `known` makes of a parameter; None without one.
fn chosen<T>(
    name: &'static str,
    text: Option<&str>,
    known: impl FnOnce(&str) -> Option<T>,
    allowed: &'static str,
) -> Result<Option<T>, ApiError<'static>> {
    let Some(text) = text else { return Ok(None) };
    known(text).map(Some).ok_or(ApiError::Parameter { name, allowed })
}

fn name<'a>(
    parameter: &'static str,
    text: Option<&'a str>,
) -> Result<Option<&'a str>, ApiError<'static>> {
    let allowed = "1 to 128 bytes without control characters";
    const _: () = assert!(NAME_BYTES_MAX == 128);
    match text {
        Some(text) if !is_name(text) => Err(ApiError::Parameter { name: parameter, allowed }),
        text => Ok(text),
    }
}

fn series_error(parameter: &'static str) -> ApiError<'static> {
    const _: () = assert!(METRIC_BYTES_MAX == 1_024);
    ApiError::Parameter { name: parameter, allowed: "1 to 1024 bytes without control characters" }
}

/// A whole number in these bounds; `parse` alone would take a sign.
fn within(text: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_digits && bounds.contains(number))
}

/// A timestamp in any form of a sample's; 0 is 1970.
fn timestamp_us(text: &str) -> Option<i64> {
    let stamp = if let Ok(number) = text.parse() {
        timestamp::from_integer(number).ok()?
    } else if let Ok(number) = text.parse() {
        timestamp::from_float(number).ok()?
    } else {
        // An unencoded `+` was decoded as a space.
        timestamp::from_text(&text.replace(' ', "+"))?.ok()?
    };
    Some(stamp.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_known_name_counts() {
        let series = Query::new("series=a%7Bb%3D%22c%22%7D&x=1&series=d+e").series();
        assert_eq!(*series.expect("names"), [Box::from("a{b=\"c\"}"), Box::from("d e")]);
        let query = Query::new("x=1&device=gr%C3%B6%C3%9Fe+1&device=b&limit=7&&y&=z&%zz");
        assert_eq!(query.device().expect("a name"), Some("größe 1"));
        assert_eq!(query.limit().expect("a number"), 7);
        assert_eq!(query.sort().expect("default"), DevicesSort::Score);
        assert_eq!(query.since_us().expect("default"), i64::MIN);
        assert_eq!(query.scope(false).expect("default"), Scope::Local);
        assert_eq!(Query::new("").limit().expect("default"), 100);
    }

    #[test]
    fn errors_name_invalid_values() {
        let named = |result: Result<(), ApiError<'static>>| match result {
            Err(ApiError::Parameter { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        for limit in ["", "0", "1001", "+5", "-1", "1e3", "many", "99999999999999999999999"] {
            let query = format!("limit={}", limit.replace('+', "%2B"));
            assert_eq!(named(Query::new(&query).limit().map(drop)), "limit", "{limit}");
        }
        for device in ["", "a%0A", "%7F", &"x".repeat(129)] {
            let query = format!("device={device}&search={device}");
            assert_eq!(named(Query::new(&query).device().map(drop)), "device", "{device}");
            assert_eq!(named(Query::new(&query).search().map(drop)), "search", "{device}");
        }
        for series in ["", "a%0A", &"x".repeat(1_025)] {
            let query = format!("series=a&series={series}&search={series}");
            assert_eq!(named(Query::new(&query).series().map(drop)), "series", "{series}");
            assert_eq!(named(Query::new(&query).search_series().map(drop)), "search", "{series}");
        }
        assert_eq!(named(Query::new(&"series=a&".repeat(9)).series().map(drop)), "series");
        for (scope, is_shared) in [("moon", true), ("moon", false), ("", true), ("cluster", false)]
        {
            let query = format!("scope={scope}");
            assert_eq!(named(Query::new(&query).scope(is_shared).map(drop)), "scope", "{scope}");
        }
        assert_eq!(named(Query::new("sort=size").sort().map(drop)), "sort");
        for since in ["soon", "", "-1", "1e300", "NaN", "2024-13-01T00:00:00Z", "2024-12-25"] {
            let query = format!("since={since}");
            assert_eq!(named(Query::new(&query).since_us().map(drop)), "since", "{since}");
        }
    }

    #[test]
    fn profiles_stay_within_their_bounds() {
        for (query, seconds, hz) in [
            ("", 30, 100),
            ("seconds=1&hz=1", 1, 1),
            ("seconds=300&hz=1000", 300, 1_000),
            ("seconds=007&hz=00250", 7, 250),
        ] {
            let order = Query::new(query).order().expect("numbers");
            assert_eq!((order.seconds, order.hz, order.backend), (seconds, hz, Backend::Auto));
        }
        for (query, seconds) in [("", None), ("seconds=1", Some(1)), ("debug=0&seconds=5", Some(5))]
        {
            assert_eq!(Query::new(query).span_s().expect("a number"), seconds);
        }
        assert!(Query::new("seconds=5&debug=1").span_s().is_err());
        for (query, named) in [
            ("seconds=", "seconds"),
            ("seconds=0", "seconds"),
            ("seconds=301", "seconds"),
            ("seconds=-7", "seconds"),
            ("seconds=%2B7", "seconds"),
            ("seconds=1.5", "seconds"),
            ("seconds=99999999999999999999999", "seconds"),
            ("hz=0", "hz"),
            ("hz=1001", "hz"),
            ("hz=99999", "hz"),
            ("hz=many", "hz"),
            ("hz=-", "hz"),
            ("backend=magic", "backend"),
        ] {
            match Query::new(query).order() {
                Err(ApiError::Parameter { name, allowed }) => {
                    assert!(name == named && (name == "backend" || allowed.contains("from 1 to")));
                }
                other => panic!("{query}: {other:?}"),
            }
        }
        for query in ["seconds=0", "seconds=301"] {
            assert!(Query::new(query).span_s().is_err(), "{query}");
        }
    }

    #[test]
    fn the_scope_is_the_cluster_if_there_is_one() {
        let scope = |query, is_shared| Query::new(query).scope(is_shared).expect("allowed");
        assert_eq!(scope("", true), Scope::Cluster);
        assert_eq!(scope("scope=cluster", true), Scope::Cluster);
        assert_eq!(scope("scope=local", true), Scope::Local);
        assert_eq!(scope("scope=local", false), Scope::Local);
        assert_eq!(scope("", false), Scope::Local);
    }

    #[test]
    fn since_takes_the_forms_of_timestamps() {
        let moment = 1_735_100_000_000_000;
        for text in [
            "1735100000",
            "1735100000.0",
            "1735100000000",
            "1735100000000000",
            "1735100000000000000",
            "2024-12-25T04:13:20Z",
            "2024-12-25T06:13:20+02:00",
            "2024-12-25T06:13:20%2B02:00",
        ] {
            let query = format!("since={text}");
            assert_eq!(Query::new(&query).since_us().expect(text), moment, "{text}");
        }
        assert_eq!(Query::new("since=0").since_us().expect("a number"), 0);
        let fraction = Query::new("since=1735100000.123456").since_us().expect("a number");
        assert_eq!(fraction, 1_735_100_000_123_456);
    }
}
