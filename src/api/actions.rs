//! What a request can ask for: samples to take, a read, an order of an operator; and the token that each needs.
//!
//! [`routes`](super::routes) says which path and method mean which.

use crate::dashboard::page::Asset;

/// The action of a path and a method.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Take samples.
    Ingest(Convention),
    /// Answer a read.
    Get(Get),
    /// Do what an operator asks for.
    Operate(Operation),
    /// Say which methods there are.
    Options(&'static str),
    /// The path has only these methods.
    WrongMethod(&'static str),
    /// No such path.
    Unknown,
}

/// The token that a request must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRule {
    /// None.
    Open,
    /// That of senders.
    Ingest,
    /// That of senders, which InfluxDB 1 also takes as the parameter `p`, the password.
    IngestOrParameter,
    /// That of readers.
    Read,
    /// That of `/debug/`; without one the request must be local.
    Debug,
    /// That of operators; without one the request must be local. Never of a page of another site.
    Operator,
}

impl Action {
    /// The token that it asks for; None if it answers with a refusal or without looking at the request.
    #[inline]
    pub const fn token(self) -> Option<TokenRule> {
        match self {
            Self::Ingest(convention) => Some(convention.token()),
            Self::Get(get) => Some(get.token()),
            Self::Operate(_) => Some(TokenRule::Operator),
            Self::Options(_) | Self::WrongMethod(_) | Self::Unknown => None,
        }
    }
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
    /// What Influx clients look for before they write.
    InfluxPing,
    /// InfluxQL, of which two statements are answered.
    InfluxQuery,
}

/// The action of POST, and of PUT and DELETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Post {
    /// Takes samples.
    Ingest(Convention),
    /// The same as GET, with the parameters in the body.
    Debug(DebugRead),
    /// The same as GET, with the parameters in a form.
    InfluxQuery,
    /// Changes what people are told, or forgets a device. Answered by a reader.
    Operate(Operation),
}

/// What operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Somebody knows of an incident.
    Acknowledge,
    /// Nobody is to be told for a time.
    AddSilence,
    /// A silence ends before its time.
    EndSilence,
    /// A device is forgotten.
    ForgetDevice,
}

impl Operation {
    /// The status of success.
    pub const fn success(self) -> u16 {
        match self {
            Self::Acknowledge => 200,
            Self::AddSilence => 201,
            Self::EndSilence | Self::ForgetDevice => 204,
        }
    }

    /// Whether it comes with a JSON body.
    pub const fn has_body(self) -> bool {
        matches!(self, Self::Acknowledge | Self::AddSilence)
    }
}

/// How senders of a path write their bodies and read the answers: a file of [`ingest`](super::ingest) each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// sigmad's own, in JSON.
    Json {
        /// The status if a sample was accepted.
        success: u16,
    },
    /// Prometheus remote_write.
    RemoteWrite,
    /// Influx line protocol.
    Influx(InfluxVersion),
    /// Text exposition, as to Pushgateway.
    Push,
    /// The end of a group of Pushgateway.
    Forget,
    /// Text exposition, as to VictoriaMetrics.
    Import,
    /// OTLP over HTTP, in the coding of a request that does not say which.
    Otlp(OtlpCoding),
}

/// How a request and its answer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpCoding {
    /// `application/x-protobuf`
    Protobuf,
    /// `application/json`, in the form that protobuf has there
    Json,
}

/// The versions of InfluxDB's API, by their errors and parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfluxVersion {
    /// `/write`
    V1,
    /// `/api/v2/write`
    V2,
    /// `/api/v3/write_lp`
    V3,
}

impl Convention {
    /// The status of accepted samples.
    pub const fn success(self) -> u16 {
        match self {
            Self::Json { success } => success,
            Self::RemoteWrite | Self::Influx(_) | Self::Import => 204,
            Self::Push | Self::Otlp(_) => 200,
            Self::Forget => 202,
        }
    }

    /// Who brings samples has the token of senders.
    #[inline]
    pub const fn token(self) -> TokenRule {
        match self {
            Self::Influx(InfluxVersion::V1) => TokenRule::IngestOrParameter,
            Self::Json { .. }
            | Self::RemoteWrite
            | Self::Influx(_)
            | Self::Otlp(_)
            | Self::Push
            | Self::Forget
            | Self::Import => TokenRule::Ingest,
        }
    }
}

/// Paths about the process itself, for local clients and clients with the debug token.
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
    /// `/incidents`
    Incidents,
    /// `/incidents/{id}`
    Incident,
    /// `/silences`
    Silences,
    /// `/incidents.html`
    IncidentsPage,
    /// `/history`
    History,
    /// The Prometheus metrics.
    Scrape,
    /// `openapi.json`
    OpenApi,
    /// `/events`: a reader subscribes the client to the event stream.
    Events,
}

impl Get {
    /// What holds data of samples asks for the token of readers.
    pub const fn token(self) -> TokenRule {
        match self {
            Self::Health | Self::Ready | Self::Page(_) | Self::Read(Read::OpenApi) => {
                TokenRule::Open
            }
            Self::InfluxPing => TokenRule::Open,
            // Clients send it with what they write with.
            Self::InfluxQuery => TokenRule::IngestOrParameter,
            Self::Read(_) => TokenRule::Read,
            Self::Debug(_) => TokenRule::Debug,
        }
    }
}
