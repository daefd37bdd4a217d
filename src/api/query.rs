//! Query strings to what they ask for. Unknown parameters are ignored, bad values named.

use std::borrow::Cow;

use super::errors::ApiError;
use crate::analytics::report::{DEVICES_REPORTED_MAX, DevicesSort, SAMPLES_REPORTED_MAX, Scope};
use crate::decode::timestamp;
use crate::sample::{NAME_BYTES_MAX, is_name};

/// Rows of a list, unless `limit` says otherwise.
pub const LIMIT_DEFAULT: usize = 100;
/// More would be a copy of the analytics thread's memory, made by that thread.
pub const LIMIT_MAX: usize = 1_000;
const _: () = assert!(LIMIT_MAX <= DEVICES_REPORTED_MAX && LIMIT_MAX <= SAMPLES_REPORTED_MAX);

/// The parameters that some route knows; the first of each name counts.
#[derive(Debug, Default)]
pub struct Query<'a> {
    device: Option<Cow<'a, str>>,
    scope: Option<Cow<'a, str>>,
    limit: Option<Cow<'a, str>>,
    sort: Option<Cow<'a, str>>,
    since: Option<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    /// Takes the string apart; values are checked by those who use them.
    pub fn new(query: &'a str) -> Self {
        let mut known = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let parameter = match &*name {
                "device" => &mut known.device,
                "scope" => &mut known.scope,
                "limit" => &mut known.limit,
                "sort" => &mut known.sort,
                "since" => &mut known.since,
                _ => continue,
            };
            parameter.get_or_insert(value);
        }
        known
    }

    /// Which device.
    pub fn device(&self) -> Result<Option<&str>, ApiError<'static>> {
        let allowed = "1 to 128 bytes without control characters";
        const _: () = assert!(NAME_BYTES_MAX == 128);
        match self.device.as_deref() {
            Some(name) if !is_name(name) => Err(ApiError::Parameter { name: "device", allowed }),
            device => Ok(device),
        }
    }

    /// Whose windows: the cluster's unless asked otherwise, where replicas share theirs.
    pub fn scope(&self, is_shared: bool) -> Result<Scope, ApiError<'static>> {
        let allowed = match (self.scope.as_deref(), is_shared) {
            (None | Some("cluster"), true) => return Ok(Scope::Cluster),
            (None, false) | (Some("local"), _) => return Ok(Scope::Local),
            (Some(_), true) => "cluster or local",
            (Some(_), false) => "local: without --redis-url this replica knows of no cluster",
        };
        Err(ApiError::Parameter { name: "scope", allowed })
    }

    /// How many rows.
    pub fn limit(&self) -> Result<usize, ApiError<'static>> {
        let error = ApiError::Parameter { name: "limit", allowed: "a number from 1 to 1000" };
        const _: () = assert!(LIMIT_MAX == 1_000);
        let Some(text) = self.limit.as_deref() else { return Ok(LIMIT_DEFAULT) };
        // parse() would take a sign.
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error);
        }
        text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or(error)
    }

    /// In which order.
    pub fn sort(&self) -> Result<DevicesSort, ApiError<'static>> {
        match self.sort.as_deref() {
            None | Some("score") => Ok(DevicesSort::Score),
            Some("last_seen") => Ok(DevicesSort::LastSeen),
            Some("anomalies") => Ok(DevicesSort::Anomalies),
            Some(_) => {
                let allowed = "score, last_seen or anomalies";
                Err(ApiError::Parameter { name: "sort", allowed })
            }
        }
    }

    /// Since when, in microseconds since 1970.
    pub fn since_us(&self) -> Result<i64, ApiError<'static>> {
        let allowed = "a time since 1970 in seconds, milliseconds, microseconds or nanoseconds, \
                       or as in RFC 3339";
        let Some(text) = self.since.as_deref() else { return Ok(i64::MIN) };
        moment_us(text).ok_or(ApiError::Parameter { name: "since", allowed })
    }
}

/// The forms of a sample's timestamp, as text; 0 is the beginning of time.
fn moment_us(text: &str) -> Option<i64> {
    let stamp = if let Ok(number) = text.parse() {
        timestamp::from_integer(number).ok()?
    } else if let Ok(number) = text.parse() {
        timestamp::from_float(number).ok()?
    } else {
        // A `+` that nobody encoded has become a space.
        timestamp::from_text(&text.replace(' ', "+"))?.ok()?
    };
    Some(stamp.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_known_name_counts() {
        let query = Query::new("x=1&device=gr%C3%B6%C3%9Fe+1&device=b&limit=7&&y&=z&%zz");
        assert_eq!(query.device().expect("a name"), Some("größe 1"));
        assert_eq!(query.limit().expect("a number"), 7);
        assert_eq!(query.sort().expect("default"), DevicesSort::Score);
        assert_eq!(query.since_us().expect("default"), i64::MIN);
        assert_eq!(query.scope(false).expect("default"), Scope::Local);
        assert_eq!(Query::new("").limit().expect("default"), 100);
    }

    #[test]
    fn bad_values_are_named() {
        let named = |result: Result<(), ApiError<'static>>| match result {
            Err(ApiError::Parameter { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        for limit in ["", "0", "1001", "+5", "-1", "1e3", "many", "99999999999999999999999"] {
            let query = format!("limit={}", limit.replace('+', "%2B"));
            assert_eq!(named(Query::new(&query).limit().map(drop)), "limit", "{limit}");
        }
        for device in ["", "a%0A", "%7F", &"x".repeat(129)] {
            let query = format!("device={device}");
            assert_eq!(named(Query::new(&query).device().map(drop)), "device", "{device}");
        }
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
    fn the_scope_is_the_cluster_where_there_is_one() {
        let scope = |query, is_shared| Query::new(query).scope(is_shared).expect("allowed");
        assert_eq!(scope("", true), Scope::Cluster);
        assert_eq!(scope("scope=cluster", true), Scope::Cluster);
        assert_eq!(scope("scope=local", true), Scope::Local);
        assert_eq!(scope("scope=local", false), Scope::Local);
        assert_eq!(scope("", false), Scope::Local);
    }

    #[test]
    fn moments_have_the_forms_of_timestamps() {
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
