//! What a process and its children have used: processor time, to the nanosecond where the kernel
//! says so; memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// The unit of the times in `/proc/PID/stat`: a hundredth of a second on every Linux that Debian
/// builds.
const TICK: Duration = Duration::from_millis(10);

/// By how many ticks a process's own account may differ from its threads' only for being rounded.
const ROUNDED: u32 = 2;

/// The processor time used up to now.
pub(crate) struct Used {
    /// By thread: `schedstat`'s first field. A thread takes it along when it ends.
    threads: BTreeMap<u32, Duration>,
    /// By the processes' own accounts, in which ended threads and children stay.
    accounts: Duration,
    processes: u32,
}

impl Used {
    pub(crate) fn by(root: u32) -> Self {
        let tree = tree(root);
        let mut used = Self {
            threads: BTreeMap::new(),
            accounts: Duration::ZERO,
            processes: u32::try_from(tree.len()).unwrap_or(u32::MAX),
        };
        for process in tree {
            used.accounts += account(process);
            for thread in numbers(&format!("/proc/{process}/task")) {
                let path = format!("/proc/{process}/task/{thread}/schedstat");
                let ran = fs::read_to_string(path).ok();
                let ran = ran.and_then(|text| text.split(' ').next()?.parse().ok());
                if let Some(ran) = ran {
                    used.threads.insert(thread, Duration::from_nanos(ran));
                }
            }
        }
        used
    }

    /// What was used from `before` to this one. The threads' clocks are exact; where a thread ended
    /// in between, the accounts, which are not, have what is missing.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let ended = before.threads.keys().any(|t| !self.threads.contains_key(t));
        let ran = |(thread, now): (&u32, &Duration)| {
            now.saturating_sub(before.threads.get(thread).copied().unwrap_or_default())
        };
        let exact = self.threads.iter().map(ran).sum::<Duration>();
        let accounts = self.accounts.saturating_sub(before.accounts);
        let missing = accounts > exact + TICK * ROUNDED * self.processes;
        if ended || missing { accounts } else { exact }
    }
}

/// Resident memory in bytes. Not from `status`, whose figures lag behind by up to 64 pages a thread.
pub(crate) fn resident(root: u32) -> u64 {
    let of = |process: u32| {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("Rss:"))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    tree(root).into_iter().filter_map(of).sum()
}

/// `utime`, `stime`, and both of the children that were waited for.
fn account(process: u32) -> Duration {
    let ticks = stat(process).map_or(0, |fields| {
        let spent = fields.iter().skip(11).take(4);
        spent.filter_map(|field| field.parse::<u32>().ok()).sum()
    });
    TICK * ticks
}

/// The fields of `/proc/PID/stat` behind the name, which may hold anything: state, parent, …
fn stat(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// A process and all that descend from it.
fn tree(root: u32) -> BTreeSet<u32> {
    let parent = |process: &u32| stat(*process)?.get(1)?.parse::<u32>().ok();
    let parents: Vec<_> = numbers("/proc")
        .into_iter()
        .filter_map(|process| Some((process, parent(&process)?)))
        .collect();
    let mut tree = BTreeSet::from([root]);
    loop {
        let known = tree.len();
        let children = parents.iter().filter(|(_, parent)| tree.contains(parent));
        let children: Vec<_> = children.map(|(process, _)| *process).collect();
        tree.extend(children);
        if tree.len() == known {
            return tree;
        }
    }
}

/// The entries of a folder that are numbers.
fn numbers(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    named.collect()
}
