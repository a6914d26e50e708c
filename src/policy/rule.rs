//! A rule: which resource is cacheable, and what makes one of its bodies final.
//!
//! Rules are data. The built-in one ([`Rule::run_step`]) is a value like any that a configuration
//! adds; no code elsewhere knows what a run step is.

use std::fmt;

use thiserror::Error;

/// The path prefix under which the gateway answers; templates and `base_url` are relative to it.
pub const API_PREFIX: &str = "/v1";

/// Where a rule's name is asked for, this stands for requests that match none.
pub const NO_RULE: &str = "none";

/// One bit each in the verdict's record of what it met.
const MAX_IDENTITY: usize = 64;

/// Why a rule cannot be used as written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// A template that does not start with `/`, or has an empty or dot segment.
    #[error("`{0}` is not a path template; write one like `/threads/{{thread_id}}/runs`")]
    Template(String),
    /// `{…}` with an empty or unusable name, or braces inside a literal.
    #[error(
        "`{0}` is not a path parameter; write one like `{{step_id}}`, with letters, digits and `_`"
    )]
    Parameter(String),
    /// The same parameter twice in one template.
    #[error("the parameter `{{{0}}}` occurs twice")]
    Repeated(String),
    /// A rule's path without any parameter: there is nothing to tell its bodies apart by.
    #[error("the path has no parameter; a rule needs at least one, like `{{response_id}}`")]
    NoParameter,
    /// `identity` names a parameter that the path does not have.
    #[error("identity `{member}` names `{parameter}`, which is not a parameter of the path")]
    UnknownParameter {
        /// The body member.
        member: String,
        /// The parameter that it names.
        parameter: String,
    },
    /// A path parameter that no body member is compared with.
    #[error(
        "no member in identity names the path parameter `{0}`; without it a body for another path could be stored"
    )]
    Unidentified(String),
    /// No terminal status.
    #[error("`terminal` is empty; name the statuses after which the body never changes")]
    NoTerminal,
    /// `status` or `object` as an identity member, or one member twice.
    #[error("the member `{0}` cannot be part of identity: it is read for another purpose")]
    ReservedMember(String),
    /// More identity members than a body could reasonably be asked for.
    #[error("identity has more than {MAX_IDENTITY} members")]
    TooManyMembers,
    /// A template that repeats the prefix that all have.
    #[error("`{0}` begins with {API_PREFIX}, which goes without saying; leave it out")]
    Prefixed(String),
    /// What stands for "no rule" in the metrics.
    #[error("`{NO_RULE}` stands for requests that match no rule; choose another name")]
    ReservedName,
    /// A name outside `[a-z0-9-]`.
    #[error("`{0}` is not a rule name; use lower-case letters, digits and `-`")]
    Name(String),
}

/// One segment of a path template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Must be equal, byte for byte.
    Literal(Box<str>),
    /// An id, by the parameter's name.
    Parameter(Box<str>),
}

/// A path template such as `/threads/{thread_id}/runs`, relative to [`API_PREFIX`].
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    /// What stands before, between and behind the parameters, slashes included.
    literals: Vec<Box<str>>,
}

/// The beginning of a path that a template names.
pub(crate) struct Leading<'p> {
    /// As far as it goes, in path order.
    pub(crate) ids: Vec<&'p str>,
    /// It names one resource, not a collection.
    pub(crate) ends_in_id: bool,
}

impl Template {
    /// Reads a template as it is written in the configuration.
    ///
    /// # Errors
    /// [`RuleError::Template`], [`RuleError::Parameter`] or [`RuleError::Repeated`].
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let relative = text
            .strip_prefix('/')
            .ok_or_else(|| RuleError::Template(text.to_owned()))?;
        if relative.split('/').next() == API_PREFIX.strip_prefix('/') {
            return Err(RuleError::Prefixed(text.to_owned()));
        }
        let mut segments = Vec::new();
        for part in relative.split('/') {
            let segment = match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                Some(name) if is_word(name) => Segment::Parameter(name.into()),
                Some(_) => return Err(RuleError::Parameter(part.to_owned())),
                None if part.contains(['{', '}']) => {
                    return Err(RuleError::Parameter(part.to_owned()));
                }
                None if !is_literal(part) => return Err(RuleError::Template(text.to_owned())),
                None => Segment::Literal(part.into()),
            };
            if let Segment::Parameter(name) = &segment
                && segments.contains(&segment)
            {
                return Err(RuleError::Repeated(name.to_string()));
            }
            segments.push(segment);
        }
        let literals = literals(&segments);
        Ok(Self { segments, literals })
    }

    /// The parameters' names, in path order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Parameter(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// What `parts` have for the template's parameters, if they are the segments of its beginning.
    pub(crate) fn leading<'p>(&self, parts: &[&'p str]) -> Option<Leading<'p>> {
        let mut leading = Leading {
            ids: Vec::new(),
            ends_in_id: false,
        };
        if parts.is_empty() || parts.len() > self.segments.len() {
            return None;
        }
        for (part, segment) in parts.iter().zip(&self.segments) {
            leading.ends_in_id = match segment {
                Segment::Literal(text) if **text == **part => false,
                Segment::Literal(_) => return None,
                Segment::Parameter(_) => {
                    leading.ids.push(part);
                    true
                }
            };
        }
        Some(leading)
    }

    /// What stands before, between and behind the parameters: one more than there are of these.
    pub(crate) fn literals(&self) -> &[Box<str>] {
        &self.literals
    }

    /// Whether some path matches both templates, which would leave it open whose it is.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.segments.len() == other.segments.len()
            && self
                .segments
                .iter()
                .zip(&other.segments)
                .all(|pair| match pair {
                    (Segment::Literal(a), Segment::Literal(b)) => a == b,
                    (Segment::Parameter(_), _) | (_, Segment::Parameter(_)) => true,
                })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Parameter(name) => write!(f, "/{{{name}}}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

fn literals(segments: &[Segment]) -> Vec<Box<str>> {
    let mut literals = vec![String::new()];
    for segment in segments {
        let last = literals.last_mut().expect("there is one from the start");
        last.push('/');
        match segment {
            Segment::Literal(text) => last.push_str(text),
            Segment::Parameter(_) => literals.push(String::new()),
        }
    }
    literals.into_iter().map(String::into_boxed_str).collect()
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Literals are plain: nothing that a server could decode or resolve to something else.
fn is_literal(part: &str) -> bool {
    !part.is_empty()
        && !matches!(part, "." | "..")
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// A cacheable resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    name: Box<str>,
    path: Template,
    list: Option<Template>,
    object: Box<str>,
    /// Body member and the index of the path parameter that it must equal.
    identity: Vec<(Box<str>, usize)>,
    terminal: Vec<Box<str>>,
    query: Vec<Box<str>>,
}

/// A rule as it is written, before it is known to make sense.
#[derive(Debug, Clone, Default)]
pub struct RuleSpec {
    /// Its name: metric label, part of the key.
    pub name: String,
    /// The path template of one resource.
    pub path: String,
    /// The path template of the list, if it has one.
    pub list: Option<String>,
    /// What the body's `object` must be.
    pub object: String,
    /// Body member → path parameter.
    pub identity: Vec<(String, String)>,
    /// Statuses after which the body never changes.
    pub terminal: Vec<String>,
    /// Query parameters that may be part of the key.
    pub query: Vec<String>,
}

impl Rule {
    /// The built-in rule: a step of an Assistants run.
    pub fn run_step() -> Self {
        let text = |s: &str| s.to_owned();
        Self::new(RuleSpec {
            name: text("run-step"),
            path: text("/threads/{thread_id}/runs/{run_id}/steps/{step_id}"),
            list: Some(text("/threads/{thread_id}/runs/{run_id}/steps")),
            object: text("thread.run.step"),
            identity: vec![
                (text("id"), text("step_id")),
                (text("run_id"), text("run_id")),
                (text("thread_id"), text("thread_id")),
            ],
            terminal: ["completed", "failed", "cancelled", "expired"]
                .map(text)
                .to_vec(),
            query: vec![text("include[]")],
        })
        .expect("the built-in rule is valid: a test builds it")
    }

    /// All that it says but its name: two rules with the same definition check and match alike.
    pub fn definition(&self) -> String {
        let Self {
            name: _,
            path,
            list,
            object,
            identity,
            terminal,
            query,
        } = self;
        // Quoted, so that nothing can run together.
        format!("{path:?} {list:?} {object:?} {identity:?} {terminal:?} {query:?}")
    }

    /// Builds a rule from its parts.
    ///
    /// # Errors
    /// The first [`RuleError`] that applies.
    pub fn new(parts: RuleSpec) -> Result<Self, RuleError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if parts.name.is_empty() || !parts.name.bytes().all(plain) {
            return Err(RuleError::Name(parts.name));
        }
        if parts.name == NO_RULE {
            return Err(RuleError::ReservedName);
        }
        let path = Template::parse(&parts.path)?;
        let list = parts.list.as_deref().map(Template::parse).transpose()?;
        let parameters: Vec<&str> = path.parameters().collect();
        if parameters.is_empty() {
            return Err(RuleError::NoParameter);
        }
        let mut identity: Vec<(Box<str>, usize)> = Vec::new();
        for (member, parameter) in parts.identity {
            let reserved = matches!(member.as_str(), "status" | "object");
            if reserved || identity.iter().any(|(known, _)| **known == *member) {
                return Err(RuleError::ReservedMember(member));
            }
            match parameters.iter().position(|p| *p == parameter) {
                Some(index) => identity.push((member.into(), index)),
                None => return Err(RuleError::UnknownParameter { member, parameter }),
            }
        }
        if identity.len() > MAX_IDENTITY {
            return Err(RuleError::TooManyMembers);
        }
        let missing = (0..parameters.len()).find(|i| !identity.iter().any(|(_, j)| i == j));
        if let Some(index) = missing {
            return Err(RuleError::Unidentified(parameters[index].to_owned()));
        }
        if parts.terminal.is_empty() {
            return Err(RuleError::NoTerminal);
        }
        let boxed = |texts: Vec<String>| texts.into_iter().map(String::into_boxed_str).collect();
        Ok(Self {
            name: parts.name.into(),
            object: parts.object.into(),
            identity,
            terminal: boxed(parts.terminal),
            query: boxed(parts.query),
            path,
            list,
        })
    }

    /// Its name: metric label, part of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path template of one resource.
    pub fn path(&self) -> &Template {
        &self.path
    }

    /// The path template of the list, if it has one.
    pub fn list(&self) -> Option<&Template> {
        self.list.as_ref()
    }

    /// What the body's `object` must be.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// Body members with the index of the path parameter that each must equal.
    pub fn identity(&self) -> impl ExactSizeIterator<Item = (&str, usize)> {
        self.identity
            .iter()
            .map(|(member, index)| (&**member, *index))
    }

    /// Whether a body with this status never changes again.
    pub fn is_terminal(&self, status: &str) -> bool {
        self.terminal.iter().any(|t| **t == *status)
    }

    /// The terminal statuses.
    pub fn terminal(&self) -> impl Iterator<Item = &str> {
        self.terminal.iter().map(|t| &**t)
    }

    /// The query parameters that may be part of the key.
    pub fn query(&self) -> impl Iterator<Item = &str> {
        self.query.iter().map(|q| &**q)
    }

    /// Whether some path could belong to both rules.
    pub fn overlaps(&self, other: &Self) -> bool {
        let templates = |rule: &Self| -> Vec<Template> {
            std::iter::once(rule.path.clone())
                .chain(rule.list.clone())
                .collect()
        };
        let theirs = templates(other);
        templates(self)
            .iter()
            .any(|mine| theirs.iter().any(|t| mine.overlaps(t)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        let parts = |name: &str, path: &str| RuleSpec {
            name: name.to_owned(),
            path: path.to_owned(),
            identity: vec![("id".to_owned(), "id".to_owned())],
            terminal: vec!["done".to_owned()],
            ..RuleSpec::default()
        };
        assert!(Rule::new(parts("a", "/a/{id}")).is_ok());
        let prefixed = RuleError::Prefixed("/v1/a/{id}".to_owned());
        assert_eq!(Rule::new(parts("a", "/v1/a/{id}")), Err(prefixed));
        assert_eq!(
            Rule::new(parts(NO_RULE, "/a/{id}")),
            Err(RuleError::ReservedName)
        );
    }

    #[test]
    fn the_built_in_rule_reads_back_as_documented() {
        let rule = Rule::run_step();
        assert_eq!(rule.name(), "run-step");
        assert_eq!(rule.object(), "thread.run.step");
        let terminal: Vec<&str> = rule.terminal().collect();
        assert_eq!(terminal, ["completed", "failed", "cancelled", "expired"]);
        assert!(rule.query().eq(["include[]"]));
        let path = "/threads/{thread_id}/runs/{run_id}/steps/{step_id}";
        assert_eq!(rule.path().to_string(), path);
        let list = rule.list().map(ToString::to_string);
        assert_eq!(list.as_deref(), path.strip_suffix("/{step_id}"));
    }

    #[test]
    fn a_template_is_made_of_plain_words_and_parameters() {
        use RuleError::{Parameter, Prefixed, Repeated};
        let text = str::to_owned;
        for good in ["/a", "/a/{b}", "/a.b_c-9/{B_9}/...", "/{v1}/v1", "/v1x"] {
            let template = Template::parse(good).unwrap();
            assert_eq!(template.to_string(), good);
        }
        for (bad, expected) in [
            ("/a/{}", Parameter(text("{}"))),
            ("/a/{b c}", Parameter(text("{b c}"))),
            ("/a/{b}c", Parameter(text("{b}c"))),
            ("/a/b}", Parameter(text("b}"))),
            ("/{a}/b/{a}", Repeated(text("a"))),
            ("/v1", Prefixed(text("/v1"))),
        ] {
            assert_eq!(Template::parse(bad), Err(expected), "{bad}");
        }
        for bad in ["", "a", "/", "/a//b", "/a/", "/.", "/a/..", "/a%62", "/ä"] {
            let expected = RuleError::Template(text(bad));
            assert_eq!(Template::parse(bad), Err(expected), "{bad}");
        }
    }

    #[test]
    fn templates_overlap_where_one_path_could_be_both() {
        let template = |text: &str| Template::parse(text).unwrap();
        for (one, other, expected) in [
            ("/a/{b}", "/a/{c}", true),
            ("/a/{b}", "/a/c", true),
            ("/a/{b}/c", "/{d}/e/c", true),
            ("/a/b", "/a/b", true),
            ("/a/{b}", "/c/{b}", false),
            ("/a/{b}/c", "/a/{b}/d", false),
            ("/a/{b}", "/a/{b}/c", false),
            ("/a/b", "/a", false),
        ] {
            let (one, other) = (template(one), template(other));
            assert_eq!(one.overlaps(&other), expected, "{one:?} and {other:?}");
            assert_eq!(other.overlaps(&one), expected, "{other:?} and {one:?}");
        }
        assert_eq!(format!("{:?}", template("/a/{b}")), "`/a/{b}`");
        let rule = |path: &str, list: Option<&str>| Rule {
            path: template(path),
            list: list.map(template),
            ..Rule::run_step()
        };
        let listed = rule("/a/{b}", Some("/a"));
        assert!(listed.overlaps(&rule("/{x}", None)));
        assert!(rule("/{x}/{y}", None).overlaps(&listed));
        assert!(!listed.overlaps(&rule("/b/{b}", Some("/b"))));
    }

    #[test]
    fn every_parameter_is_compared_with_a_member_and_every_member_with_a_parameter() {
        let rule = |path: &str, members: &[(&str, &str)]| {
            Rule::new(RuleSpec {
                name: "a".to_owned(),
                path: path.to_owned(),
                identity: members
                    .iter()
                    .map(|(member, parameter)| ((*member).to_owned(), (*parameter).to_owned()))
                    .collect(),
                terminal: vec!["done".to_owned()],
                ..RuleSpec::default()
            })
            .map(|rule| {
                let pairs = rule.identity();
                pairs
                    .map(|(member, index)| (member.to_owned(), index))
                    .collect::<Vec<_>>()
            })
        };
        let pair = |member: &str, index| (member.to_owned(), index);
        assert_eq!(
            rule("/{a}/{b}", &[("x", "b"), ("y", "a"), ("z", "b")]),
            Ok(vec![pair("x", 1), pair("y", 0), pair("z", 1)])
        );
        assert_eq!(
            rule("/{a}/{b}", &[("x", "a")]),
            Err(RuleError::Unidentified("b".to_owned()))
        );
        assert_eq!(
            rule("/{a}", &[("x", "c")]),
            Err(RuleError::UnknownParameter {
                member: "x".to_owned(),
                parameter: "c".to_owned()
            })
        );
        for reserved in ["status", "object", "x"] {
            assert_eq!(
                rule("/{a}", &[("x", "a"), (reserved, "a")]),
                Err(RuleError::ReservedMember(reserved.to_owned()))
            );
        }
        let names: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "a")).collect();
        assert!(rule("/{a}", &many[..64]).is_ok());
        assert_eq!(rule("/{a}", &many), Err(RuleError::TooManyMembers));
    }
}
