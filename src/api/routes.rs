//! The table of paths: the only source of routing, of `Allow`, and of the metric label `path`.
//!
//! A new path is a row of [`ROUTES`] and an entry of `openapi.json`; a test compares them.

use std::sync::LazyLock;

use crate::dashboard::page::Asset;
use crate::decode::Format;
use crate::http::message::Method;

/// The description of the HTTP interface; a test compares it with [`ROUTES`].
pub const OPENAPI: &str = include_str!("openapi.json");

/// One path.
#[derive(Clone, Copy, Debug)]
pub struct PathRoute {
    /// The path of a request; also the metric label.
    pub path: &'static str,
    /// The action of GET and HEAD.
    pub get: Option<Get>,
    /// The action of POST.
    pub post: Option<Post>,
}

/// The action of GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Get {
    /// Liveness, answered by the worker.
    Health,
    /// Readiness, answered by the worker.
    Ready,
    /// A file of the live page, answered by the worker.
    Page(Asset),
    /// Answered by a reader.
    Read(Read),
    /// Debugging, answered by a debug thread.
    Debug(DebugRead),
}

/// The action of POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Post {
    /// Takes samples.
    Ingest {
        /// Of the body.
        format: Format,
        /// Of the answer, if a sample was accepted.
        status: u16,
    },
    /// The same as GET, with the parameters in the body.
    Debug(DebugRead),
}

/// Paths about the process itself, for loopback clients and clients with the debug token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugRead {
    /// List of the other paths.
    Index,
    /// CPU profile.
    Profile,
    /// CPU profile as an SVG flame graph.
    Flamegraph,
    /// The stack of each thread.
    Threads,
    /// The command line.
    Cmdline,
    /// Symbols of addresses.
    Symbol,
    /// Heap profile of memory in use.
    Heap,
    /// Heap profile of all allocations.
    Allocs,
    /// Latency of each stage of a request.
    Latency,
}

/// The reads that readers answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// `/analyze`
    Analyze,
    /// `/stats`
    Stats,
    /// `/devices`
    Devices,
    /// `/anomalies`
    Anomalies,
    /// `/latest`
    Latest,
    /// The Prometheus metrics.
    Scrape,
    /// `openapi.json`
    OpenApi,
    /// `/events`: a reader subscribes the client to the event stream.
    Events,
}

impl Get {
    /// True if the answer holds data of samples, which requires the read token.
    pub const fn is_data(self) -> bool {
        match self {
            Self::Health | Self::Ready | Self::Page(_) | Self::Read(Read::OpenApi) => false,
            Self::Debug(_) => false,
            Self::Read(_) => true,
        }
    }
}

/// Every path, the busiest first: a request is compared with them in this order.
pub const ROUTES: [PathRoute; 28] = [
    PathRoute { path: "/ingest", get: None, post: ingest(Format::Json, 202) },
    PathRoute {
        path: "/metrics",
        get: Some(Get::Read(Read::Scrape)),
        post: ingest(Format::Json, 200),
    },
    reads("/analyze", Read::Analyze),
    reads("/stats", Read::Stats),
    reads("/devices", Read::Devices),
    reads("/anomalies", Read::Anomalies),
    reads("/latest", Read::Latest),
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
        path: "/debug/pprof/symbol",
        get: Some(Get::Debug(DebugRead::Symbol)),
        post: Some(Post::Debug(DebugRead::Symbol)),
    },
];

const fn ingest(format: Format, status: u16) -> Option<Post> {
    Some(Post::Ingest { format, status })
}

const fn gets(path: &'static str, get: Get) -> PathRoute {
    PathRoute { path, get: Some(get), post: None }
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

/// What a client of an unknown path may have meant: the paths for debugging, or all others. It is written once: a
/// scan of paths must not cost more than other requests.
pub fn no_such_path(path: &str) -> &'static str {
    static MESSAGES: LazyLock<[String; 2]> = LazyLock::new(|| [false, true].map(list));
    &MESSAGES[usize::from(is_debug(path))]
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
    let place = ROUTES.iter().position(|route| route.path == path);
    place.map_or(Label::OTHER, |place| Label(place as u8))
}

impl PathRoute {
    /// The value of `Allow`.
    pub const fn allow(&self) -> &'static str {
        match (self.get.is_some(), self.post.is_some()) {
            (true, true) => ALLOW_ALL,
            (true, false) => "GET, HEAD, OPTIONS",
            (false, _) => "POST, OPTIONS",
        }
    }

    /// The status of accepted samples, if POST takes samples.
    pub const fn ingest_status(&self) -> Option<u16> {
        match self.post {
            Some(Post::Ingest { status, .. }) => Some(status),
            Some(Post::Debug(_)) | None => None,
        }
    }
}

/// The methods of the whole server, and of a path that has them all.
pub const ALLOW_ALL: &str = "GET, HEAD, POST, OPTIONS";

/// The action of a path and a method.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Take samples.
    Ingest {
        /// Of the body.
        format: Format,
        /// Of the answer, if a sample was accepted.
        status: u16,
    },
    /// Answer a read.
    Get(Get),
    /// Say which methods there are.
    Options(&'static str),
    /// The path has only these methods.
    WrongMethod(&'static str),
    /// No such path.
    Unknown,
}

/// The action of `method` on the path of `label`.
#[inline]
pub fn action(label: Label, method: Method) -> Action {
    let Some(route) = label.route() else { return Action::Unknown };
    let action = match method {
        Method::Post => route.post.map(|post| match post {
            Post::Ingest { format, status } => Action::Ingest { format, status },
            Post::Debug(debug) => Action::Get(Get::Debug(debug)),
        }),
        Method::Get | Method::Head => route.get.map(Action::Get),
        Method::Options => Some(Action::Options(route.allow())),
        Method::Other => None,
    };
    action.unwrap_or(Action::WrongMethod(route.allow()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_exactly_and_once() {
        for (place, route) in ROUTES.iter().enumerate() {
            assert_eq!(find(route.path).index(), place);
            assert_eq!(find(route.path).path(), route.path);
        }
        for path in ["", "//", "/ingest/", "/INGEST", "/metrics/", "/ingest%00", "*"] {
            assert_eq!(find(path), Label::OTHER, "{path}");
        }
        assert_eq!(Label::OTHER.path(), "other");
    }

    #[test]
    fn methods_lead_to_actions() {
        let act = |path, method| action(find(path), method);
        assert!(matches!(
            act("/ingest", Method::Post),
            Action::Ingest { format: Format::Json, status: 202 }
        ));
        assert!(matches!(
            act("/metrics", Method::Post),
            Action::Ingest { format: Format::Json, status: 200 }
        ));
        assert!(matches!(act("/ingest", Method::Head), Action::WrongMethod("POST, OPTIONS")));
        assert!(matches!(act("/ingest", Method::Options), Action::Options("POST, OPTIONS")));
        assert!(matches!(act("/nope", Method::Options), Action::Unknown));
        assert!(matches!(act("/metrics", Method::Head), Action::Get(Get::Read(Read::Scrape))));
        assert!(matches!(act("/metrics", Method::Other), Action::WrongMethod(ALLOW_ALL)));
        assert!(matches!(act("/health", Method::Post), Action::WrongMethod("GET, HEAD, OPTIONS")));
        assert!(matches!(act("/nope", Method::Other), Action::Unknown));
        for method in [Method::Get, Method::Head, Method::Post] {
            let symbol = act("/debug/pprof/symbol", method);
            assert!(matches!(symbol, Action::Get(Get::Debug(DebugRead::Symbol))));
        }
        assert!(matches!(act("/debug/pprof/", Method::Post), Action::WrongMethod(_)));
    }

    #[test]
    fn the_openapi_document_describes_exactly_these_routes() {
        let document: serde_json::Value =
            serde_json::from_str(OPENAPI).expect("the document is JSON");
        let described: Vec<(&str, Vec<&str>)> = document["paths"]
            .as_object()
            .expect("paths")
            .iter()
            .map(|(path, item)| {
                let methods = item.as_object().expect("operations").keys().map(String::as_str);
                (path.as_str(), methods.collect())
            })
            .collect();
        let mut routed: Vec<(&str, Vec<&str>)> = ROUTES
            .iter()
            .map(|route| {
                // The document describes HEAD once, for all paths.
                let get = route.get.map(|_| "get");
                (route.path, get.into_iter().chain(route.post.map(|_| "post")).collect())
            })
            .collect();
        routed.sort_unstable();
        // serde_json keeps objects in the order of their keys.
        assert_eq!(described, routed);
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let responses = operation["responses"].as_object().expect("responses");
                let route = find(path).route().expect("routed");
                let ingest = route.ingest_status().filter(|_| method == "post");
                let success = ingest.unwrap_or(200).to_string();
                assert!(responses.contains_key(&success), "{method} {path}: {success}");
                let is_debug = matches!(route.get, Some(Get::Debug(_)));
                let is_guarded =
                    is_debug || route.get.is_some_and(Get::is_data) || ingest.is_some();
                for status in ["401", "403"] {
                    assert_eq!(
                        responses.contains_key(status),
                        is_guarded,
                        "{method} {path}: {status}"
                    );
                }
                assert_eq!(operation.get("security").is_some(), is_guarded, "{method} {path}");
            }
        }
    }

    #[test]
    fn every_reference_of_the_openapi_document_resolves() {
        fn check(value: &serde_json::Value, document: &serde_json::Value) {
            match value {
                serde_json::Value::Object(fields) => {
                    if let Some(reference) = fields.get("$ref").and_then(|to| to.as_str()) {
                        let pointer = reference.strip_prefix('#').expect("local references");
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    fields.values().for_each(|value| check(value, document));
                }
                serde_json::Value::Array(items) => {
                    items.iter().for_each(|value| check(value, document));
                }
                _ => {}
            }
        }
        let document = serde_json::from_str(OPENAPI).expect("JSON");
        check(&document, &document);
    }
}
