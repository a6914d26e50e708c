//! How many connections fit the limit of open files.
//!
//! A connection is of no use where no descriptor is left for its fetch. So what the limit leaves is
//! shared out before anything is accepted: who does not fit waits in the kernel's queue, and who was
//! accepted is answered.

/// The runtime, standard streams, signals, listeners, a connection that each of them holds while it
/// waits for its slot, files that are read now and then; with room to spare.
const OWN: usize = 24;

/// Connections at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) data: usize,
    pub(super) admin: usize,
}

impl Shares {
    /// What is `wanted`, if beside it so many fetches fit into so many descriptors; else less, and a
    /// warning that names what would do.
    pub(super) fn within_the_limit(wanted: Self, fetches: usize) -> Self {
        // Where it cannot be asked for, nothing is known of it, either.
        let limit = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(usize::MAX, |(soft, _)| {
            usize::try_from(soft).unwrap_or(usize::MAX)
        });
        let shares = Self::of(limit, wanted, fetches);
        if shares.data < wanted.data {
            tracing::warn!(
                open_files = limit,
                connections = shares.data,
                max_connections = wanted.data,
                needed = needed(wanted, fetches),
                "the limit of open files is too low for server.max_connections"
            );
        }
        shares
    }

    fn of(limit: usize, wanted: Self, fetches: usize) -> Self {
        let left = limit.saturating_sub(OWN);
        // Probes and scrapes go on when the data listeners are full.
        let admin = wanted.admin.min(left / 8).max(1);
        let left = left.saturating_sub(admin);
        // A request of HTTP/1.1 needs two: its caller's and the upstream's.
        let fetches = fetches.min(left / 2);
        Self {
            data: wanted.data.min(left - fetches).max(1),
            admin,
        }
    }
}

fn needed(wanted: Shares, fetches: usize) -> usize {
    [wanted.data, wanted.admin, fetches]
        .into_iter()
        .fold(OWN, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Shares = Shares {
        data: 10_000,
        admin: 64,
    };

    #[test]
    fn what_is_needed_and_no_less_gives_all_that_is_wanted() {
        let needed = needed(WANTED, 256);
        assert_eq!(Shares::of(needed, WANTED, 256), WANTED);
        assert_eq!(Shares::of(usize::MAX, WANTED, 256), WANTED);
        assert!(Shares::of(needed - 1, WANTED, 256).data < WANTED.data);
    }

    #[test]
    fn every_connection_that_fits_finds_a_descriptor_for_its_fetch() {
        for limit in [64, 65, 256, 1_024, 4_096] {
            let Shares { data, admin } = Shares::of(limit, WANTED, 256);
            let fetches = data.min(256);
            assert!(OWN + admin + data + fetches <= limit + 1, "{limit}: {data}");
            assert!(data >= limit / 4, "{limit}: only {data}");
        }
    }

    #[test]
    fn however_low_the_limit_there_is_one_of_each() {
        for limit in [0, 1, OWN, OWN + 1, OWN + 3] {
            let least = Shares { data: 1, admin: 1 };
            assert_eq!(Shares::of(limit, WANTED, 256), least, "{limit}");
        }
    }
}
