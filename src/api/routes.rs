//! The table of paths: the only source of routing, of `Allow`, and of the metric label `path`.
//!
//! A new path is a row of [`ROUTES`] and an entry of `openapi.json`; a test compares them. What a path can do is in
//! [`actions`](super::actions).

mod foreign;

use std::sync::LazyLock;

use super::actions::{
    Action, Convention, DebugRead, Get, InfluxVersion, Operation, OtlpCoding, Post, Read,
};
use crate::dashboard::page::Asset;
use crate::http::message::Method;

/// The description of the HTTP interface; a test compares it with [`ROUTES`].
pub const OPENAPI: &str = include_str!("openapi.json");

/// One path.
#[derive(Clone, Copy, Debug)]
pub struct PathRoute {
    /// The path of a request; also the metric label.
    pub path: &'static str,
    /// Which paths it stands for. Those that stand for many are the last of the table.
    pub shape: PathShape,
    /// The action of GET and HEAD.
    pub get: Option<Get>,
    /// The action of POST.
    pub post: Option<Post>,
    /// The action of PUT.
    pub put: Option<Post>,
    /// The action of DELETE.
    pub delete: Option<Post>,
}

/// How `path` of a row names the paths of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathShape {
    /// It is the path.
    Whole,
    /// In the place of [`ID`] there is a part without a slash.
    WithId,
    /// It is the beginning.
    Prefix,
}

/// Stands for the part of a path that names what the request is about.
pub const ID: &str = "{id}";

/// Every path, the busiest first: a request is compared with them in this order, and with prefixes last.
pub const ROUTES: [PathRoute; 46] = [
    PathRoute { post: json(202), ..path("/ingest") },
    PathRoute { post: json(200), ..reads("/metrics", Read::Scrape) },
    PathRoute { post: influx(InfluxVersion::V1), ..path("/write") },
    PathRoute { post: influx(InfluxVersion::V2), ..path("/api/v2/write") },
    PathRoute { post: influx(InfluxVersion::V3), ..path("/api/v3/write_lp") },
    reads("/analyze", Read::Analyze),
    reads("/stats", Read::Stats),
    reads("/devices", Read::Devices),
    reads("/anomalies", Read::Anomalies),
    reads("/latest", Read::Latest),
    reads("/incidents", Read::Incidents),
    PathRoute {
        post: Some(Post::Operate(Operation::AddSilence)),
        ..reads("/silences", Read::Silences)
    },
    gets("/health", Get::Health),
    gets("/healthz", Get::Health),
    gets("/livez", Get::Health),
    gets("/readyz", Get::Ready),
    reads("/metrics/prometheus", Read::Scrape),
    reads("/events", Read::Events),
    gets("/", Get::Page(Asset::Html)),
    gets("/page.css", Get::Page(Asset::Style)),
    gets("/page.js", Get::Page(Asset::Script)),
    reads("/openapi.json", Read::OpenApi),
    PathRoute { post: Some(Post::Ingest(Convention::RemoteWrite)), ..path("/api/v1/write") },
    gets("/ping", Get::InfluxPing),
    PathRoute { post: Some(Post::InfluxQuery), ..gets("/query", Get::InfluxQuery) },
    PathRoute { post: Some(Post::Ingest(Convention::Import)), ..path("/api/v1/import/prometheus") },
    PathRoute { post: Some(OTLP), ..path("/v1/metrics") },
    debugs("/debug/pprof/", DebugRead::Index),
    debugs("/debug/pprof", DebugRead::Index),
    debugs("/debug/pprof/profile", DebugRead::Profile),
    debugs("/debug/pprof/flamegraph", DebugRead::Flamegraph),
    debugs("/debug/pprof/threads", DebugRead::Threads),
    debugs("/debug/pprof/goroutine", DebugRead::Threads),
    debugs("/debug/pprof/heap", DebugRead::Heap),
    debugs("/debug/pprof/allocs", DebugRead::Allocs),
    debugs("/debug/latency", DebugRead::Latency),
    debugs("/debug/pprof/cmdline", DebugRead::Cmdline),
    PathRoute {
        post: Some(Post::Debug(DebugRead::Symbol)),
        ..debugs("/debug/pprof/symbol", DebugRead::Symbol)
    },
    reads("/history", Read::History),
    reads("/incidents.html", Read::IncidentsPage),
    PathRoute { shape: PathShape::WithId, ..reads("/incidents/{id}", Read::Incident) },
    PathRoute {
        shape: PathShape::WithId,
        post: Some(Post::Operate(Operation::Acknowledge)),
        ..path("/incidents/{id}/ack")
    },
    deletes("/silences/{id}", Operation::EndSilence),
    deletes("/devices/{id}", Operation::ForgetDevice),
    groups("/metrics/job/"),
    groups("/metrics/job@base64/"),
];

/// A path without a method.
const fn path(path: &'static str) -> PathRoute {
    PathRoute { path, shape: PathShape::Whole, get: None, post: None, put: None, delete: None }
}

const OTLP: Post = Post::Ingest(Convention::Otlp(OtlpCoding::Protobuf));

const fn json(success: u16) -> Option<Post> {
    Some(Post::Ingest(Convention::Json { success }))
}

const fn influx(version: InfluxVersion) -> Option<Post> {
    Some(Post::Ingest(Convention::Influx(version)))
}

/// The paths of Pushgateway's groups.
const fn groups(path: &'static str) -> PathRoute {
    let push = Some(Post::Ingest(Convention::Push));
    let delete = Some(Post::Ingest(Convention::Forget));
    PathRoute { shape: PathShape::Prefix, post: push, put: push, delete, ..self::path(path) }
}

const fn deletes(path: &'static str, operation: Operation) -> PathRoute {
    let delete = Some(Post::Operate(operation));
    PathRoute { shape: PathShape::WithId, delete, ..self::path(path) }
}

const fn gets(path: &'static str, get: Get) -> PathRoute {
    PathRoute { get: Some(get), ..self::path(path) }
}

const fn reads(path: &'static str, read: Read) -> PathRoute {
    gets(path, Get::Read(read))
}

const fn debugs(path: &'static str, debug: DebugRead) -> PathRoute {
    gets(path, Get::Debug(debug))
}

/// The metric label of a request: an index of [`ROUTES`], or [`Label::OTHER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(u8);

/// Number of labels.
pub const LABELS: usize = ROUTES.len() + 1;
const _: () = assert!(LABELS <= 64, "a round keeps its labels as the bits of a u64");

impl Label {
    /// Every path that is not in the table.
    pub const OTHER: Self = Self(ROUTES.len() as u8);

    /// All labels, in the order of [`ROUTES`].
    pub fn all() -> impl Iterator<Item = Self> {
        (0..LABELS as u8).map(Self)
    }

    /// The label with that [`Label::index`].
    #[inline]
    pub fn at(index: usize) -> Self {
        debug_assert!(index < LABELS);
        Self(index as u8)
    }

    /// Below [`LABELS`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The route, None for [`Label::OTHER`].
    pub fn route(self) -> Option<&'static PathRoute> {
        ROUTES.get(self.index())
    }

    /// The value of the metric label `path`.
    pub fn path(self) -> &'static str {
        self.route().map_or("other", |route| route.path)
    }
}

/// What a client of an unknown path may have meant: the path for its format if another receiver has this one, otherwise
/// the paths for debugging, or all others. It is written once: a scan of paths must not cost more than other requests.
pub fn no_such_path(path: &str) -> &'static str {
    static MESSAGES: LazyLock<[String; 2]> = LazyLock::new(|| [false, true].map(list));
    foreign::advice(path).unwrap_or_else(|| &MESSAGES[usize::from(is_debug(path))])
}

fn list(debug: bool) -> String {
    let paths = ROUTES.iter().map(|route| route.path).filter(|path| is_debug(path) == debug);
    format!("no such path; there are {}", paths.collect::<Vec<_>>().join(", "))
}

/// True for paths below `/debug/`.
pub fn is_debug(path: &str) -> bool {
    path.starts_with("/debug/")
}

/// The label of a path.
#[inline]
pub fn find(path: &str) -> Label {
    match ROUTES.iter().position(|route| route.path == path) {
        Some(place) => Label(place as u8),
        None => find_prefix(path),
    }
}

/// The label of a path that no row names.
#[cold]
fn find_prefix(path: &str) -> Label {
    let place = ROUTES.iter().position(|route| match route.shape {
        PathShape::Whole => false,
        PathShape::WithId => route.id_of(path).is_some(),
        PathShape::Prefix => path.starts_with(route.path),
    });
    place.map_or(Label::OTHER, |place| Label(place as u8))
}

impl PathRoute {
    /// The part of a path in the place of [`ID`], as sent; None for other paths.
    pub fn id_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (before, after) = self.path.split_once(ID)?;
        let id = path.strip_prefix(before)?.strip_suffix(after)?;
        (!id.is_empty() && !id.contains('/')).then_some(id)
    }

    /// The value of `Allow`.
    pub const fn allow(&self) -> &'static str {
        match (self.get.is_some(), self.post.is_some(), self.delete.is_some()) {
            (true, true, _) => "GET, HEAD, POST, OPTIONS",
            (true, false, _) => "GET, HEAD, OPTIONS",
            // Of groups, which have PUT as well.
            (false, true, true) => "POST, PUT, DELETE, OPTIONS",
            (false, false, true) => "DELETE, OPTIONS",
            (false, _, false) => "POST, OPTIONS",
        }
    }

    /// The status of accepted samples, if POST takes samples.
    pub const fn ingest_status(&self) -> Option<u16> {
        match self.post {
            Some(Post::Ingest(convention)) => Some(convention.success()),
            Some(Post::Debug(_) | Post::InfluxQuery | Post::Operate(_)) | None => None,
        }
    }
}

/// The methods of the whole server.
pub const ALLOW_ALL: &str = "GET, HEAD, POST, OPTIONS";

/// The action of `method` on the path of `label`.
#[inline]
pub fn action(label: Label, method: Method) -> Action {
    let Some(route) = label.route() else { return Action::Unknown };
    let posts = |post| match post {
        Post::Ingest(convention) => Action::Ingest(convention),
        Post::Debug(debug) => Action::Get(Get::Debug(debug)),
        Post::InfluxQuery => Action::Get(Get::InfluxQuery),
        Post::Operate(operation) => Action::Operate(operation),
    };
    let action = match method {
        Method::Post => route.post.map(posts),
        Method::Get | Method::Head => route.get.map(Action::Get),
        Method::Put => route.put.map(posts),
        Method::Delete => route.delete.map(posts),
        Method::Options => Some(Action::Options(route.allow())),
        Method::Other => None,
    };
    action.unwrap_or(Action::WrongMethod(route.allow()))
}

#[cfg(test)]
mod tests;
