//! To the gateway, and to what surrounds it.

use crate::kind::{Deed, Harm, Kind, RIGHT};

const fn deed(word: &'static str, deed: Deed) -> Kind {
    Kind::plain(word, Harm::Deed(deed), RIGHT)
}

pub(crate) const KINDS: &[Kind] = &[
    deed("stopped_for_a_moment", Deed::Stopped),
    deed("upstream_restarts", Deed::UpstreamRestarts),
    deed("pool_cut", Deed::PoolCut),
    deed("purged", Deed::Purged),
    deed("purged_in_flight", Deed::PurgedInFlight),
    deed("scraped", Deed::Scraped),
    deed("scraped_slowly", Deed::SlowScrape),
    deed("flooded_with_connections", Deed::Flooded),
    deed("reloaded", Deed::Reloaded),
    deed("reload_broken", Deed::ReloadBroken),
    deed("reload_vanished", Deed::ReloadVanished),
    deed("reload_elsewhere", Deed::ReloadElsewhere),
    deed("secret_swapped", Deed::SecretSwapped),
    deed("secret_emptied", Deed::SecretEmptied),
    deed("secret_vanished", Deed::SecretVanished),
];
