//! Reads `src/` as a graph: the modules, the names that each defines or imports, the paths in it.
//!
//! A path leads to the file that defines its item, not to the modules that re-export it. Method
//! calls name no path, and names that a macro builds from parts are not seen.

use std::collections::{BTreeMap, HashMap, HashSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// From the root of its crate on: `["stepgate", "cache", "redis"]`.
type ModulePath = Vec<String>;

/// Re-exports that lead to re-exports are followed this far.
const MAX_HOPS: usize = 16;

/// All modules of the library and of the program.
#[derive(Default)]
pub(super) struct ModuleGraph {
    modules: BTreeMap<ModulePath, Module>,
}

#[derive(Default)]
struct Module {
    file: String,
    items: HashSet<String>,
    /// `mod x;`, each with its line.
    declared: Vec<(usize, String)>,
    /// Names that a `use` brings in, with their paths.
    imports: HashMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    paths: Vec<PathUse>,
    /// Every single word that is neither a field, a method nor part of a `use`.
    words: HashSet<String>,
}

struct PathUse {
    line: usize,
    words: Vec<String>,
    /// The name under which a `pub use` re-exports it.
    reexported_as: Option<String>,
}

/// Where a path leads.
#[derive(Clone)]
enum Target {
    Module(ModulePath),
    /// An item that this module defines.
    Item(ModulePath),
}

/// One path from a file to an item of another module.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) from: String,
    pub(super) line: usize,
    /// The path as written, its groups spelled out.
    pub(super) path: String,
    /// The module that the path stands in.
    pub(super) module: ModulePath,
    /// The file that defines the item; `None` if the path ends at a module.
    pub(super) defined_in: Option<String>,
    /// Every module on the way, re-exporting ones included.
    pub(super) through: Vec<ModulePath>,
    /// Whether it only re-exports the item.
    pub(super) reexport: bool,
}

impl ModuleGraph {
    /// Adds a file as the module `path`.
    pub(super) fn add(&mut self, file: &str, path: ModulePath, text: &str) {
        let tokens: TokenStream = text.parse().expect("the compiler has read this file");
        self.read_module(file, path, tokens);
    }

    fn read_module(&mut self, file: &str, path: ModulePath, tokens: TokenStream) {
        let mut reader = Reader::default();
        reader.module.file = file.to_owned();
        reader.read(tokens, true);
        self.modules.insert(path.clone(), reader.module);
        for (name, body) in reader.inline_modules {
            let below = [&path[..], &[name]].concat();
            self.read_module(file, below, body);
        }
    }

    /// Returns every path that leads out of its module.
    ///
    /// # Errors
    /// The paths that start at a crate's root, `self` or `super` and lead to nothing known, and the
    /// declared modules that have no file in their crate.
    pub(super) fn imports(&self) -> Result<Vec<Import>, Vec<String>> {
        let mut imports = Vec::new();
        let mut unresolved = Vec::new();
        for (path, module) in &self.modules {
            for (line, name) in &module.declared {
                if !self
                    .modules
                    .contains_key(&[&path[..], std::slice::from_ref(name)].concat())
                {
                    unresolved.push(format!("{}:{line}: mod {name}", module.file));
                }
            }
            for used in &module.paths {
                let mut through = Vec::new();
                let written = used.words.join("::");
                let Some(target) = self.resolve(path, &used.words, &mut through, MAX_HOPS) else {
                    if is_root(&used.words[0]) {
                        unresolved.push(format!("{}:{}: {written}", module.file, used.line));
                    }
                    continue;
                };
                let is_used = |name: &String| {
                    let inside = |(below, m): (&ModulePath, &Module)| {
                        below.starts_with(path) && m.file == module.file && m.words.contains(name)
                    };
                    self.modules.iter().any(inside)
                };
                let glob = used.words.last().is_some_and(|word| word == "*");
                imports.push(Import {
                    from: module.file.clone(),
                    line: used.line,
                    path: written,
                    module: path.clone(),
                    defined_in: match target {
                        Target::Item(at) => Some(self.modules[&at].file.clone()),
                        Target::Module(at) if glob => Some(self.modules[&at].file.clone()),
                        Target::Module(_) => None,
                    },
                    through,
                    reexport: used
                        .reexported_as
                        .as_ref()
                        .is_some_and(|name| !is_used(name)),
                });
            }
        }
        if unresolved.is_empty() {
            Ok(imports)
        } else {
            Err(unresolved)
        }
    }

    fn resolve(
        &self,
        from: &ModulePath,
        words: &[String],
        through: &mut Vec<ModulePath>,
        hops: usize,
    ) -> Option<Target> {
        let mut words = words.iter();
        let first = words.as_slice().first()?;
        let mut at = match &**first {
            "crate" => Target::Module(from[..1].to_vec()),
            "stepgate" => Target::Module(vec!["stepgate".to_owned()]),
            "self" | "super" => Target::Module(from.clone()),
            _ => self.look_up(from, first, through, hops)?,
        };
        if first != "super" {
            words.next();
        }
        for word in words {
            let Target::Module(module) = &at else { break };
            let next = match &**word {
                "self" | "*" => at.clone(),
                "super" => Target::Module(module[..module.len() - 1].to_vec()),
                _ => self.look_up(module, word, through, hops)?,
            };
            at = next;
        }
        let (Target::Module(end) | Target::Item(end)) = &at;
        through.push(end.clone());
        Some(at)
    }

    /// Finds a name in a module: a module below it, an item, an import, or behind a glob.
    fn look_up(
        &self,
        module: &ModulePath,
        name: &str,
        through: &mut Vec<ModulePath>,
        hops: usize,
    ) -> Option<Target> {
        let hops = hops.checked_sub(1)?;
        let scope = self.modules.get(module)?;
        let below = [&module[..], &[name.to_owned()]].concat();
        if self.modules.contains_key(&below) {
            return Some(Target::Module(below));
        }
        if scope.items.contains(name) {
            return Some(Target::Item(module.clone()));
        }
        through.push(module.clone());
        if let Some(path) = scope.imports.get(name) {
            return self.resolve(module, path, through, hops);
        }
        scope.globs.iter().find_map(|glob| {
            match self.resolve(module, glob, &mut Vec::new(), hops)? {
                Target::Module(behind) => self.look_up(&behind, name, through, hops),
                Target::Item(_) => None,
            }
        })
    }
}

fn is_root(word: &str) -> bool {
    matches!(word, "crate" | "stepgate" | "self" | "super")
}

/// Reads the tokens of one module.
#[derive(Default)]
struct Reader {
    module: Module,
    inline_modules: Vec<(String, TokenStream)>,
}

impl Reader {
    /// `top` is false inside the braces of an item.
    fn read(&mut self, tokens: TokenStream, top: bool) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        let mut public = false;
        while let Some(token) = tokens.get(at) {
            let name = word(tokens.get(at + 1));
            match token {
                TokenTree::Group(group) => {
                    self.read(group.stream(), false);
                    at += 1;
                }
                TokenTree::Ident(ident) if ident == "use" => {
                    at += 1;
                    self.read_use(&tokens, &mut at, &[], public);
                }
                TokenTree::Ident(ident) if ident == "mod" && top => {
                    let name = name.expect("a module has a name");
                    if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                        self.inline_modules.push((name, body.stream()));
                    } else {
                        let line = ident.span().start().line;
                        self.module.declared.push((line, name));
                    }
                    at += 3;
                }
                TokenTree::Ident(ident) => {
                    let defines = matches!(
                        &*ident.to_string(),
                        "struct" | "enum" | "union" | "trait" | "type" | "fn" | "const" | "static"
                    );
                    if let Some(name) = name.filter(|_| top && defines) {
                        self.module.items.insert(name);
                        at += 2;
                    } else {
                        self.read_path(&tokens, &mut at);
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
            // The visibility of the next token: `pub`, or `pub` with its parentheses.
            public = word(Some(token)).is_some_and(|word| word == "pub")
                || public && matches!(token, TokenTree::Group(_));
        }
    }

    /// Reads an expression's or a type's path; a field, a method or a lifetime is none.
    fn read_path(&mut self, tokens: &[TokenTree], at: &mut usize) {
        let is = |at: usize, punct_char| punct(tokens.get(at)) == Some(punct_char);
        let range = *at >= 2 && is(*at - 2, '.');
        let follows = *at >= 1 && (is(*at - 1, '.') && !range || is(*at - 1, '\''));
        let line = tokens[*at].span().start().line;
        let mut words: Vec<_> = word(tokens.get(*at)).into_iter().collect();
        *at += 1;
        while is(*at, ':') && is(*at + 1, ':') {
            let Some(next) = word(tokens.get(*at + 2)) else {
                break;
            };
            words.push(next);
            *at += 3;
        }
        if follows {
            return;
        }
        if words.len() > 1 {
            self.module.paths.push(PathUse {
                line,
                words,
                reexported_as: None,
            });
        } else {
            self.module.words.extend(words);
        }
    }

    /// Reads one tree of a `use`, up to the `,` or `;` behind it.
    fn read_use(&mut self, tokens: &[TokenTree], at: &mut usize, prefix: &[String], public: bool) {
        let line = tokens.get(*at).map_or(0, |token| token.span().start().line);
        let mut words = prefix.to_vec();
        let mut alias = None;
        while let Some(token) = tokens.get(*at) {
            *at += 1;
            match token {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let group: Vec<_> = group.stream().into_iter().collect();
                    let mut inner = 0;
                    while inner < group.len() {
                        self.read_use(&group, &mut inner, &words, public);
                    }
                    while !matches!(punct(tokens.get(*at)), None | Some(',' | ';')) {
                        *at += 1;
                    }
                    *at += 1;
                    return;
                }
                TokenTree::Ident(ident) if ident == "as" => alias = word(tokens.get(*at)),
                TokenTree::Ident(ident) if alias.is_none() => words.push(ident.to_string()),
                TokenTree::Punct(punct_char) if punct_char.as_char() == '*' => {
                    words.push("*".to_owned())
                }
                TokenTree::Punct(punct_char) if matches!(punct_char.as_char(), ',' | ';') => break,
                TokenTree::Group(_)
                | TokenTree::Ident(_)
                | TokenTree::Punct(_)
                | TokenTree::Literal(_) => {}
            }
        }
        if words.len() == prefix.len() {
            return;
        }
        let last = words.iter().rfind(|word| *word != "self").cloned();
        let name = alias.or(last).unwrap_or_default();
        if name == "*" {
            self.module.globs.push(words.clone());
        } else {
            self.module.imports.insert(name.clone(), words.clone());
        }
        self.module.paths.push(PathUse {
            line,
            words,
            reexported_as: public.then_some(name),
        });
    }
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn punct(token: Option<&TokenTree>) -> Option<char> {
    match token {
        Some(TokenTree::Punct(punct_char)) => Some(punct_char.as_char()),
        _ => None,
    }
}
