//! A rule: which resource is cacheable, and what makes one of its bodies final.
//!
//! Rules are data. The built-in rule ([`Rule::run_step`]) is a value like a configured one. No code
//! elsewhere knows what a run step is.

use std::fmt;

use thiserror::Error;

/// Names the path prefix of all requests. Templates and `base_url` are relative to it.
pub const API_PREFIX: &str = "/v1";

/// Stands for the rule's name in metrics and logs if a request matches no rule.
pub const NO_RULE: &str = "none";

/// Limits the identity members of a rule, because the cacheability check keeps one bit for each.
const MAX_IDENTITY: usize = 64;

/// Says why a rule is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// The template does not start with `/`, or has an empty or dot segment.
    #[error("`{0}` is not a path template; write one like `/threads/{{thread_id}}/runs`")]
    Template(String),
    /// A parameter name is empty or invalid, or a literal segment contains braces.
    #[error(
        "`{0}` is not a path parameter; write one like `{{step_id}}`, with letters, digits and `_`"
    )]
    Parameter(String),
    /// The template has the same parameter twice.
    #[error("the parameter `{{{0}}}` occurs twice; give each parameter its own name")]
    Repeated(String),
    /// The path has no parameter, so its bodies could not be told apart.
    #[error("the path has no parameter; write at least one, like `{{response_id}}`")]
    NoParameter,
    /// `identity` names a parameter that the path does not have.
    #[error(
        "identity compares `{member}` with `{parameter}`, which is not a parameter of the path"
    )]
    UnknownParameter {
        /// Names the body member.
        member: String,
        /// Names the path parameter that does not exist.
        parameter: String,
    },
    /// `identity` compares no body member with this path parameter.
    #[error(
        "identity has no member for the path parameter `{0}`; name one, because otherwise a body of another path could be stored"
    )]
    Unidentified(String),
    /// The rule has no terminal status.
    #[error("`terminal` is empty; name the statuses after which the body never changes")]
    NoTerminal,
    /// `identity` has `status` or `object` as a member, or one member twice.
    #[error("the member `{0}` cannot be part of identity, because another check reads it")]
    ReservedMember(String),
    /// `identity` has too many members.
    #[error("identity has too many members; name at most {MAX_IDENTITY}")]
    TooManyMembers,
    /// The template repeats the prefix that all templates have.
    #[error("`{0}` begins with {API_PREFIX}, which is implied; leave it out")]
    Prefixed(String),
    /// The name is the one that stands for "no rule".
    #[error("`{NO_RULE}` stands for requests that match no rule; choose another name")]
    ReservedName,
    /// The name is empty, or has characters outside `[a-z0-9-]`.
    #[error("`{0}` is not a rule name; use lower-case letters, digits and `-`")]
    Name(String),
}

/// Describes one segment of a path template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Matches exactly this segment.
    Literal(Box<str>),
    /// Matches any id. Holds the name of the parameter.
    Parameter(Box<str>),
}

/// Matches paths, relative to [`API_PREFIX`]. An example is `/threads/{thread_id}/runs`.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    /// Holds the text before, between and after the parameters, with its slashes.
    literals: Vec<Box<str>>,
}

/// Describes a path that matches the beginning of a template.
pub(crate) struct PathPrefix<'p> {
    /// Holds the segments at the template's parameters, in path order.
    pub(crate) ids: Vec<&'p str>,
    /// Whether the path ends in an id. If so, it names one resource, otherwise a collection.
    pub(crate) ends_in_id: bool,
}

impl Template {
    /// Parses a template as it is written in the configuration.
    ///
    /// # Errors
    /// Returns [`RuleError::Template`], [`RuleError::Parameter`], [`RuleError::Repeated`] or
    /// [`RuleError::Prefixed`].
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

    /// Returns the names of the parameters, in path order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Parameter(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// Matches `segments` with the first segments of the template.
    pub(crate) fn match_prefix<'p>(&self, segments: &[&'p str]) -> Option<PathPrefix<'p>> {
        let mut prefix = PathPrefix {
            ids: Vec::new(),
            ends_in_id: false,
        };
        if segments.is_empty() || segments.len() > self.segments.len() {
            return None;
        }
        for (text, segment) in segments.iter().zip(&self.segments) {
            prefix.ends_in_id = match segment {
                Segment::Literal(literal) if **literal == **text => false,
                Segment::Literal(_) => return None,
                Segment::Parameter(_) => {
                    prefix.ids.push(text);
                    true
                }
            };
        }
        Some(prefix)
    }

    /// Returns the text before, between and after the parameters: one more than there are parameters.
    pub(crate) fn literals(&self) -> &[Box<str>] {
        &self.literals
    }

    /// Returns whether some path could match both templates.
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
        let last = literals
            .last_mut()
            .expect("the list starts with one literal");
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

/// Returns whether `part` is a literal that no server decodes or resolves to another one.
fn is_literal(part: &str) -> bool {
    !part.is_empty()
        && !matches!(part, "." | "..")
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Describes a cacheable resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    name: Box<str>,
    path: Template,
    list: Option<Template>,
    object: Box<str>,
    /// Holds each body member with the index of the path parameter that it must equal.
    identity: Vec<(Box<str>, usize)>,
    terminal: Vec<Box<str>>,
    query: Vec<Box<str>>,
}

/// Holds a rule as it is written in the configuration, before validation.
#[derive(Debug, Clone, Default)]
pub struct RuleSpec {
    /// Holds the name, which is a metric label and part of the key.
    pub name: String,
    /// Holds the path template of one resource.
    pub path: String,
    /// Holds the path template of the list. `None` if the resource has no list.
    pub list: Option<String>,
    /// Holds the required value of the body's `object`.
    pub object: String,
    /// Maps each body member to the path parameter that it must equal.
    pub identity: Vec<(String, String)>,
    /// Holds the statuses after which the body never changes.
    pub terminal: Vec<String>,
    /// Holds the query parameters that may be part of the key.
    pub query: Vec<String>,
}

impl Rule {
    /// Returns the built-in rule, for a step of an Assistants run.
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
        .expect("a test builds the built-in rule")
    }

    /// Returns everything but the name as text. Rules with equal definitions match and check alike.
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
        // `Debug` quotes each text, so that different rules never yield the same definition.
        format!("{path:?} {list:?} {object:?} {identity:?} {terminal:?} {query:?}")
    }

    /// Validates `spec`.
    ///
    /// # Errors
    /// Returns the first [`RuleError`] that applies.
    pub fn new(spec: RuleSpec) -> Result<Self, RuleError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if spec.name.is_empty() || !spec.name.bytes().all(plain) {
            return Err(RuleError::Name(spec.name));
        }
        if spec.name == NO_RULE {
            return Err(RuleError::ReservedName);
        }
        let path = Template::parse(&spec.path)?;
        let list = spec.list.as_deref().map(Template::parse).transpose()?;
        let parameters: Vec<&str> = path.parameters().collect();
        if parameters.is_empty() {
            return Err(RuleError::NoParameter);
        }
        let mut identity: Vec<(Box<str>, usize)> = Vec::new();
        for (member, parameter) in spec.identity {
            let reserved = matches!(member.as_str(), "status" | "object");
            if reserved || identity.iter().any(|(earlier, _)| **earlier == *member) {
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
        if spec.terminal.is_empty() {
            return Err(RuleError::NoTerminal);
        }
        let boxed = |texts: Vec<String>| texts.into_iter().map(String::into_boxed_str).collect();
        Ok(Self {
            name: spec.name.into(),
            object: spec.object.into(),
            identity,
            terminal: boxed(spec.terminal),
            query: boxed(spec.query),
            path,
            list,
        })
    }

    /// Returns the name, which is a metric label and part of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path template of one resource.
    pub fn path(&self) -> &Template {
        &self.path
    }

    /// Returns the path template of the list. `None` if the resource has no list.
    pub fn list(&self) -> Option<&Template> {
        self.list.as_ref()
    }

    /// Returns the required value of the body's `object`.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// Returns each body member with the index of the path parameter that it must equal.
    pub fn identity(&self) -> impl ExactSizeIterator<Item = (&str, usize)> {
        self.identity
            .iter()
            .map(|(member, index)| (&**member, *index))
    }

    /// Returns whether a body with this status never changes again.
    pub fn is_terminal(&self, status: &str) -> bool {
        self.terminal.iter().any(|t| **t == *status)
    }

    /// Returns the terminal statuses.
    pub fn terminal(&self) -> impl Iterator<Item = &str> {
        self.terminal.iter().map(|t| &**t)
    }

    /// Returns the query parameters that may be part of the key.
    pub fn query(&self) -> impl Iterator<Item = &str> {
        self.query.iter().map(|q| &**q)
    }

    /// Returns whether some path could match both rules.
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
    fn a_prefixed_path_and_a_reserved_name_are_rejected() {
        let spec = |name: &str, path: &str| RuleSpec {
            name: name.to_owned(),
            path: path.to_owned(),
            identity: vec![("id".to_owned(), "id".to_owned())],
            terminal: vec!["done".to_owned()],
            ..RuleSpec::default()
        };
        assert!(Rule::new(spec("a", "/a/{id}")).is_ok());
        let prefixed = RuleError::Prefixed("/v1/a/{id}".to_owned());
        assert_eq!(Rule::new(spec("a", "/v1/a/{id}")), Err(prefixed));
        assert_eq!(
            Rule::new(spec(NO_RULE, "/a/{id}")),
            Err(RuleError::ReservedName)
        );
    }

    #[test]
    fn the_built_in_rule_is_as_documented() {
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
    fn a_template_consists_of_literals_and_parameters() {
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
    fn templates_overlap_if_one_path_could_match_both() {
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
    fn identity_covers_every_parameter() {
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
