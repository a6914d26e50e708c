//! What a request asks for: its path and query, read, and the key that it shares.

use std::ops::Range;
use std::sync::Arc;

use hyper::Method;
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use smallvec::SmallVec;

use super::news::Errand;
use super::outcome::Record;
use super::refusal::GatewayError;
use super::setup::{Account, Setup};
use crate::cache::CoalesceKey;
use crate::policy::rule::API_PREFIX;
use crate::policy::{CacheKey, Query, Route};

/// Path and query, as they go up, in bytes. Beside it a target of 64 KiB, the longest that the `http`
/// crate takes, has room for what the configuration may add.
pub(super) const LONGEST_TARGET: usize = 32 * 1024;

/// What a caller asked for last, and what it means: who polls asks the same again and again.
#[derive(Debug, Default)]
pub(super) struct Last(Option<Known>);

#[derive(Debug)]
struct Known {
    /// Whose it was; of one configuration.
    account: Arc<Account>,
    target: Box<str>,
    wanted: Wanted,
}

impl Last {
    /// What `head` asks for, read only if it is not what it asked for last.
    pub(super) fn read(
        &mut self,
        setup: &Setup,
        head: &Parts,
        account: &Arc<Account>,
        record: &mut Record,
    ) -> Result<&Wanted, GatewayError> {
        let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let again =
            |known: &Known| Arc::ptr_eq(&known.account, account) && *known.target == *target;
        // What headers go up is part of the key, too.
        if account.header_policy.has_vary_headers() || !self.0.as_ref().is_some_and(again) {
            self.0 = Some(Known {
                wanted: Wanted::read(setup, head, account, record)?,
                account: Arc::clone(account),
                target: target.into(),
            });
        }
        let wanted = self
            .0
            .as_ref()
            .map(|known| &known.wanted)
            .expect("just read");
        record.rule = Some(wanted.rule);
        if matches!(head.method, Method::GET | Method::HEAD) {
            Ok(wanted)
        } else {
            Err(GatewayError::MethodNotAllowed)
        }
    }
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    rule: usize,
    is_list: bool,
    /// Where in the path the ids stand.
    ids: SmallVec<[Range<usize>; 4]>,
    query: Query,
    shared: Arc<CoalesceKey>,
}

impl Wanted {
    pub(super) fn key(&self) -> &CacheKey {
        &self.shared.key
    }

    /// Reads path and query; the key is made of what the caller sent, before anything is rewritten.
    fn read(
        setup: &Setup,
        head: &Parts,
        account: &Account,
        record: &mut Record,
    ) -> Result<Self, GatewayError> {
        let ours = &setup.upstream_query;
        let raw = head.uri.query();
        let (rule, ids, query, is_list) = match Route::parse(&setup.rules, head.uri.path()) {
            Route::Resource { rule, ids } => {
                let query = Query::for_resource(&setup.rules[rule], raw, ours);
                (rule, ids, query, false)
            }
            Route::List { rule, ids } => (rule, ids, Query::for_list(raw, ours), true),
            Route::Invalid(why) => return Err(GatewayError::InvalidPath(why)),
            Route::Other if matches!(head.method, Method::CONNECT | Method::TRACE) => {
                return Err(GatewayError::MethodNotAllowed);
            }
            Route::Other if is_below_prefix(head.uri.path()) => {
                return Err(GatewayError::RouteNotFound);
            }
            Route::Other => return Err(GatewayError::NotBelowPrefix),
        };
        record.rule = Some(rule);
        if head.uri.path().len() + query.as_str().len() > LONGEST_TARGET {
            return Err(GatewayError::TARGET_TOO_LONG);
        }
        let name = setup.rules[rule].name();
        let variant = Self::variant(&query, head, account);
        let partition = account.partition_of(rule);
        let key = if is_list {
            CacheKey::for_list(partition, name, &ids, &variant)
        } else {
            CacheKey::new(partition, name, &ids, &variant)
        };
        Ok(Self {
            rule,
            is_list,
            ids: ids.iter().map(|id| within(head.uri.path(), id)).collect(),
            query,
            shared: Arc::new(CoalesceKey {
                config_number: setup.number,
                key,
            }),
        })
    }

    /// Query and forwarded headers, as they go up: all that can change the body of one path. An
    /// unknown query is kept apart from a canonical one of the same spelling.
    fn variant(query: &Query, head: &Parts, account: &Account) -> String {
        let mut variant = if query.is_known() {
            String::new()
        } else {
            "?".to_owned()
        };
        variant.push_str(query.as_str());
        for (name, value) in account.header_policy.vary_headers(&head.headers) {
            variant.push('\n');
            variant.push_str(name.as_str());
            variant.push('=');
            // A character for each byte, so that no two values are spelled alike.
            variant.extend(value.as_bytes().iter().map(|byte| char::from(*byte)));
        }
        variant
    }

    /// What a fetch needs to know of it, to go its own way.
    pub(super) fn errand(
        &self,
        head: &Parts,
        setup: &Arc<Setup>,
        account: &Arc<Account>,
    ) -> Errand {
        let asked = head.uri.path_and_query();
        let asked = asked.expect("a path that a rule names").clone();
        Errand {
            setup: Arc::clone(setup),
            account: Arc::clone(account),
            rule: self.rule,
            shared: Arc::clone(&self.shared),
            is_list: self.is_list,
            ids: self.ids.clone(),
            asked,
            query: self.query.clone(),
            passing: account.header_policy.select_forwardable(&head.headers),
        }
    }
}

/// Whether a path is one of the API.
pub(super) fn is_below_prefix(path: &str) -> bool {
    let below = path.strip_prefix(API_PREFIX);
    below.is_some_and(|below| below.starts_with('/'))
}

/// Where in `text` a part of it stands.
fn within(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}
