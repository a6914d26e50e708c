//! One source file, read as text: the paths that it spells, the modules it declares, its lines.
//!
//! A lexer that knows comments, literals, paths and inline modules is enough, because every way out
//! of a module starts at `crate`, `super` or `stepgate`. It refuses to guess: what a macro would
//! build from parts is not seen.

pub(super) struct Source {
    /// From the package's folder on: `src/step/rule.rs`.
    pub(super) path: String,
    text: String,
}

#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    pub(super) text: &'a str,
}

/// A path as written, from its root on, groups spelled out.
pub(super) struct Spelled<'a> {
    pub(super) line: usize,
    /// How many modules below its crate's root it stands.
    pub(super) depth: usize,
    pub(super) words: Vec<&'a str>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let (path, text) = (path.to_owned(), text.to_owned());
        Self { path, text }
    }

    /// The path below `src`, without its ending: `["step", "rule"]`.
    pub(super) fn words(&self) -> Vec<&str> {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let below = below.strip_suffix(".rs").unwrap_or(below);
        below.split('/').collect()
    }

    fn depth(&self) -> usize {
        match self.words()[..] {
            ["main" | "lib"] => 0,
            [ref parents @ .., "mod"] => parents.len(),
            ref words => words.len(),
        }
    }

    /// Words, `::` and single marks. Comments and literals are gone.
    pub(super) fn tokens(&self) -> Vec<Token<'_>> {
        let mut tokens = Vec::new();
        let mut rest = &*self.text;
        let mut line = 1;
        while let Some(first) = rest.chars().next() {
            let unsaid = unsaid(rest);
            let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let length = match (unsaid, word) {
                (0, 0) if rest.starts_with("::") => 2,
                (0, 0) => first.len_utf8(),
                (0, word) => word,
                (unsaid, _) => unsaid,
            };
            let (text, after) = rest.split_at(length);
            if unsaid == 0 && !first.is_whitespace() {
                tokens.push(Token { line, text });
            }
            line += text.matches('\n').count();
            rest = after;
        }
        tokens
    }

    /// Every path that starts at a root: `crate`, `self`, `super` or `stepgate`.
    pub(super) fn paths(&self) -> Vec<Spelled<'_>> {
        let tokens = self.tokens();
        let text = |at: usize| tokens.get(at).map_or("", |t| t.text);
        let mut depth = self.depth();
        let mut braces = Vec::new();
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            match text(at) {
                "{" => {
                    let module = at >= 2 && text(at - 2) == "mod";
                    depth += usize::from(module);
                    braces.push(module);
                }
                "}" => depth -= usize::from(braces.pop().unwrap_or(false)),
                "crate" | "self" | "super" | "stepgate" => {
                    let mut found = Vec::new();
                    at = spell(&tokens, at, &Vec::new(), &mut found);
                    // A root alone is `pub(crate)` or a receiver, unless an import renames it.
                    let renamed = text(at) == "as";
                    found.retain(|(_, words)| words.len() > 1 || renamed);
                    paths.extend(found.into_iter().map(|(line, words)| Spelled {
                        line,
                        depth,
                        words,
                    }));
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        paths
    }

    /// The names of `mod x;`, the modules that have a file of their own.
    pub(super) fn modules(&self) -> Vec<Token<'_>> {
        let tokens = self.tokens();
        let declared = tokens.windows(3).filter_map(|t| match t {
            [key, name, end] if key.text == "mod" && end.text == ";" => Some(*name),
            _ => None,
        });
        declared.collect()
    }

    /// How many lines there are, without those of inline `mod tests`.
    pub(super) fn lines(&self) -> usize {
        let tokens = self.tokens();
        let mut lines = self.text.lines().count();
        for (at, window) in tokens.windows(3).enumerate() {
            if !window.iter().map(|t| t.text).eq(["mod", "tests", "{"]) {
                continue;
            }
            let mut open = 0_usize;
            let end = tokens[at + 2..].iter().find(|t| {
                open += usize::from(t.text == "{");
                open -= usize::from(t.text == "}");
                open == 0
            });
            lines -= end.map_or(0, |t| t.line - window[0].line + 1);
        }
        lines
    }
}

/// Follows one path or use tree from `at`, adds all that it spells to `found`, each with its line,
/// and returns where it ends.
fn spell<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |t| t.text);
    let line = tokens.get(at).map_or(0, |t| t.line);
    let mut words = prefix.to_vec();
    loop {
        if text(at) == "{" {
            at += 1;
            while !matches!(text(at), "" | "}") {
                at = spell(tokens, at, &words, found);
                while !matches!(text(at), "" | "}" | ",") {
                    at += 1;
                }
                at += usize::from(text(at) == ",");
            }
            return at + 1;
        }
        if text(at) != "*" && !text(at).starts_with(is_word) {
            break;
        }
        words.push(text(at));
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    found.push((line, words));
    at
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The length of the comment, the literal or the lifetime's mark that `rest` starts with; 0 where
/// it starts with none.
fn unsaid(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let bare = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let prefix = rest.len() - bare.len();
    if let Some(raw) = bare.strip_prefix('r') {
        let quoted = raw.trim_start_matches('#');
        let hashes = raw.len() - quoted.len();
        if let Some(body) = quoted.strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let length = body.find(&end).map_or(body.len(), |at| at + end.len());
            return rest.len() - body.len() + length;
        }
    }
    if bare.starts_with(['"', '\'']) {
        return prefix + quoted(bare);
    }
    0
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut open = 0_usize;
    let mut at = 0;
    while let Some(pair) = rest.as_bytes().get(at..at + 2) {
        match pair {
            b"/*" => open += 1,
            b"*/" => open -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if open == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of the string or character at the start, or of the mark alone where that opens a
/// lifetime: a word with no closing mark right behind its first letter.
fn quoted(rest: &str) -> usize {
    let mut body = rest.char_indices();
    let quote = body.next().map(|(_, c)| c);
    if quote == Some('\'') {
        let mut ahead = body.clone().map(|(_, c)| c);
        if ahead.next().is_some_and(is_word) && ahead.next() != Some('\'') {
            return 1;
        }
    }
    while let Some((at, c)) = body.next() {
        if c == '\\' {
            body.next();
        } else if Some(c) == quote {
            return at + 1;
        }
    }
    rest.len()
}
