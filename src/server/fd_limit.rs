//! Limits connections so that they fit the limit of open files.
//!
//! A connection without a file descriptor left for its fetch is useless. Therefore the descriptors are
//! divided before anything is accepted. A connection beyond its share waits in the kernel's queue, and an
//! accepted one is answered.

/// The descriptors for the runtime, standard streams, signals, listeners, the connection with which each
/// listener waits for its permit, and files that are read at times; with some to spare.
const RESERVED: usize = 24;

/// How many connections each kind of listener may have at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionLimits {
    pub(super) data: usize,
    pub(super) admin: usize,
}

impl ConnectionLimits {
    /// Returns `wanted`, if it fits the limit of open files beside as many upstream connections as `fetches`.
    /// Otherwise returns less, and logs a warning with the limit that is needed.
    pub(super) fn within_fd_limit(wanted: Self, fetches: usize) -> Self {
        // If the system does not tell the limit, none is assumed.
        let limit = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(usize::MAX, |(soft, _)| {
            usize::try_from(soft).unwrap_or(usize::MAX)
        });
        let limits = Self::divide(limit, wanted, fetches);
        if limits.data < wanted.data {
            tracing::warn!(
                open_files = limit,
                connections = limits.data,
                max_connections = wanted.data,
                needed = needed(wanted, fetches),
                "the limit of open files is too low for server.max_connections"
            );
        }
        limits
    }

    fn divide(limit: usize, wanted: Self, fetches: usize) -> Self {
        let left = limit.saturating_sub(RESERVED);
        // Probes and scrapes have a share of their own, so that they work when the data listeners are full.
        let admin = wanted.admin.min(left / 8).max(1);
        let left = left.saturating_sub(admin);
        // An HTTP/1.1 request needs two descriptors: the client's connection and the upstream's.
        let fetches = fetches.min(left / 2);
        Self {
            data: wanted.data.min(left - fetches).max(1),
            admin,
        }
    }
}

fn needed(wanted: ConnectionLimits, fetches: usize) -> usize {
    [wanted.data, wanted.admin, fetches]
        .into_iter()
        .fold(RESERVED, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: ConnectionLimits = ConnectionLimits {
        data: 10_000,
        admin: 64,
    };

    #[test]
    fn needed_descriptors_allow_all_wanted_connections() {
        let needed = needed(WANTED, 256);
        assert_eq!(ConnectionLimits::divide(needed, WANTED, 256), WANTED);
        assert_eq!(ConnectionLimits::divide(usize::MAX, WANTED, 256), WANTED);
        assert!(ConnectionLimits::divide(needed - 1, WANTED, 256).data < WANTED.data);
    }

    #[test]
    fn every_accepted_connection_has_a_descriptor_for_its_fetch() {
        for limit in [64, 65, 256, 1_024, 4_096] {
            let ConnectionLimits { data, admin } = ConnectionLimits::divide(limit, WANTED, 256);
            let fetches = data.min(256);
            assert!(
                RESERVED + admin + data + fetches <= limit + 1,
                "{limit}: {data}"
            );
            assert!(data >= limit / 4, "{limit}: only {data}");
        }
    }

    #[test]
    fn lowest_limits_leave_one_connection_of_each_kind() {
        for limit in [0, 1, RESERVED, RESERVED + 1, RESERVED + 3] {
            let least = ConnectionLimits { data: 1, admin: 1 };
            assert_eq!(
                ConnectionLimits::divide(limit, WANTED, 256),
                least,
                "{limit}"
            );
        }
    }
}
