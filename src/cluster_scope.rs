//! Whose data an answer has: the cluster's, or this replica's alone.

/// Whose data an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterScope {
    /// That of the cluster, and not of this replica alone.
    pub is_cluster: bool,
    /// Since when the replicas do not hear of each other, in microseconds since 1970.
    pub degraded_since_us: Option<i64>,
}

impl ClusterScope {
    /// That of this replica, as it was asked for.
    pub const LOCAL: Self = Self { is_cluster: false, degraded_since_us: None };

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        if self.is_cluster { "cluster" } else { "local" }
    }
}
