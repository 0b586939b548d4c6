//! The house stays as it is drawn: which crate may use which, and no circle of modules within a crate.
//!
//! Both are read from the sources. ARCHITECTURE.md's table of crates is the order: a crate uses only those below it.
//!
//! A module and its children are one thing: what a parent says of its children is no arrow. Paths are followed through `use`, `pub use` and
//! `pub(crate) use`, not through globs, renamed re-exports or macros.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn crates() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(root().join("crates")).unwrap();
    let mut crates: Vec<_> = folder.map(|entry| entry.unwrap().path()).filter(|path| path.join("Cargo.toml").exists()).collect();
    crates.sort();
    crates
}

/// Crates in the order of ARCHITECTURE.md's table, the topmost first.
fn order() -> Vec<String> {
    let text = read(&root().join("ARCHITECTURE.md"));
    let table = text.split("| crate | what it is |").nth(1).expect("ARCHITECTURE.md has a table of crates");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| `"));
    rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect()
}

/// The crates of ours that a manifest names under `[dependencies]`: those for tests and builds may lie anywhere.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]"
            && let Some(rest) = line.strip_prefix("sidegate-")
        {
            found.insert(rest.split(['.', ' ', '=']).next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn crates_use_only_crates_below_them() {
    let order = order();
    let mut wrong = Vec::new();
    for path in crates() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(own) = order.iter().position(|other| *other == name) else {
            wrong.push(format!("{name} is missing in ARCHITECTURE.md's table of crates"));
            continue;
        };
        for used in dependencies(&read(&path.join("Cargo.toml"))) {
            match order.iter().position(|other| *other == used) {
                Some(place) if place > own => {}
                _ => wrong.push(format!("{name} uses {used}, which is not below it in ARCHITECTURE.md's table")),
            }
        }
    }
    for name in &order {
        if !root().join("crates").join(name).exists() {
            wrong.push(format!("ARCHITECTURE.md's table names {name}, which does not exist"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files with a folder before them; a bare name is one of the crate that the section is about.
#[test]
fn files_that_the_architecture_names_exist() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let named = text.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs") && name.contains('/'));
    let crates = crates();
    let mut bases = vec![root(), root().join("crates"), root().join("tests/tests")];
    bases.extend(crates.iter().flat_map(|path| [path.clone(), path.join("src")]));
    let gone: Vec<&str> = named.filter(|name| !bases.iter().any(|base| base.join(name).exists())).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names what does not exist: {}", gone.join(", "));
}

#[test]
fn modules_form_no_circle() {
    let mut circles = Vec::new();
    for path in crates() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        circles.extend(modules::circles(&path.join("src")).into_iter().map(|circle| format!("{name}: {}", circle.join(", "))));
    }
    assert!(circles.is_empty(), "modules that use each other:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::{First, inner::Second};\n");
    write("a.rs", "// crate::c::Comment\nuse crate::b::{self, Other as _};\n");
    write("b.rs", "fn f() { crate::c::g(\"crate::a::Text\") }\n#[cfg(test)]\nmod tests { use crate::a::First; }\n");
    write("c.rs", "pub fn g(_: &str) {}\n");
    assert_eq!(modules::circles(folder.path()), Vec::<Vec<String>>::new());
    write("c.rs", "use super::First;\n");
    assert_eq!(modules::circles(folder.path()), [["a", "b", "c"]]);
    // An item of the root itself.
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub struct First;\n");
    write("b.rs", "");
    assert!(modules::circles(folder.path()).iter().flatten().any(|module| module == "lib"));
}

/// Which module uses which, as the sources say.
mod modules {
    use super::*;

    type Uses = BTreeMap<String, BTreeSet<String>>;

    /// The modules of each circle.
    pub fn circles(src: &Path) -> Vec<Vec<String>> {
        let files = files(src, src);
        let texts: BTreeMap<String, String> = files.iter().map(|(module, path)| (module.clone(), bare(&read(path)))).collect();
        let uses: Uses = texts.iter().map(|(module, text)| (module.clone(), used_by(module, text, &texts))).collect();
        let mut circles = BTreeSet::new();
        for module in uses.keys() {
            let reached = reach(&uses, module);
            if reached.contains(module) {
                let circle: Vec<_> = reached.iter().filter(|other| reach(&uses, other).contains(module)).cloned().collect();
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    /// All that `from` uses, and what that uses.
    fn reach(uses: &Uses, from: &str) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = uses[from].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module.clone()) {
                next.extend(&uses[module]);
            }
        }
        reached
    }

    /// Modules by their path in the crate, such as `a::b`, with their file. The crate's own file and tests are none.
    fn files(src: &Path, folder: &Path) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(src, &path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.strip_prefix(src).unwrap().with_extension("");
                let module = module.to_str().unwrap().trim_end_matches("/mod").replace('/', "::");
                if module != "tests" && !module.ends_with("::tests") {
                    found.insert(if module == "main" { "lib".to_owned() } else { module }, path);
                }
            }
        }
        found
    }

    /// `text` without comments, strings and modules of tests.
    fn bare(text: &str) -> String {
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let mut bare = String::new();
        for line in text.lines() {
            let mut in_string = false;
            let mut letters = line.chars().peekable();
            while let Some(letter) = letters.next() {
                match letter {
                    '\\' if in_string => drop(letters.next()),
                    // Also of a character: '"'.
                    '"' if !bare.ends_with('\'') => in_string = !in_string,
                    '/' if !in_string && letters.peek() == Some(&'/') => break,
                    _ if !in_string => bare.push(letter),
                    _ => {}
                }
            }
            bare.push('\n');
        }
        bare
    }

    /// The modules that `text` of `module` names, other than itself and its own children.
    fn used_by(module: &str, text: &str, texts: &BTreeMap<String, String>) -> BTreeSet<String> {
        if module == "lib" {
            // The root declares all of them. So an item that it defines itself is no module's to use.
            return texts.keys().filter(|other| *other != "lib").cloned().collect();
        }
        let parent = |module: &str| module.rsplit_once("::").map(|(parent, _)| parent.to_owned()).unwrap_or_default();
        let mut used = BTreeSet::new();
        for path in paths(text) {
            let mut names: Vec<&str> = path.split("::").collect();
            let mut base = match names.remove(0) {
                "crate" => String::new(),
                "self" => module.to_owned(),
                "super" => parent(module),
                // A child, by its bare name.
                first if texts.contains_key(&format!("{module}::{first}")) => format!("{module}::{first}"),
                _ => continue,
            };
            while names.first() == Some(&"super") {
                names.remove(0);
                base = parent(&base);
            }
            let mut target = resolve(base, &names, texts);
            if target.is_empty() && is_defined(&texts["lib"], names.first().copied().unwrap_or_default()) {
                "lib".clone_into(&mut target);
            }
            // A module consists of its children.
            if target != module && !target.is_empty() && !target.starts_with(&format!("{module}::")) {
                used.insert(target);
            }
        }
        used
    }

    /// The module in which the item at `names` below `base` is, by way of what modules re-export.
    fn resolve(mut base: String, names: &[&str], texts: &BTreeMap<String, String>) -> String {
        for (i, name) in names.iter().enumerate() {
            let child = if base.is_empty() { (*name).to_owned() } else { format!("{base}::{name}") };
            if texts.contains_key(&child) {
                base = child;
                continue;
            }
            let own = if base.is_empty() { "lib" } else { base.as_str() };
            let exported = texts.get(own).into_iter().flat_map(|text| exports(text)).find(|path| path.rsplit("::").next() == Some(name));
            if let Some(path) = exported {
                let mut inner: Vec<&str> = path.split("::").collect();
                let from = match inner[0] {
                    "crate" => {
                        inner.remove(0);
                        String::new()
                    }
                    "self" => {
                        inner.remove(0);
                        base.clone()
                    }
                    _ => base.clone(),
                };
                inner.extend(&names[i + 1..]);
                let first = if from.is_empty() { inner[0].to_owned() } else { format!("{from}::{}", inner[0]) };
                if texts.contains_key(&first) {
                    return resolve(from, &inner, texts);
                }
            }
            break;
        }
        base
    }

    /// Whether `text` defines an item of this name.
    fn is_defined(text: &str, name: &str) -> bool {
        let kinds = ["struct", "enum", "fn", "const", "static", "type", "trait", "union"];
        kinds.iter().any(|kind| {
            text.match_indices(&format!("{kind} {name}"))
                .any(|(at, found)| !text[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    }

    /// The paths that `text` re-exports.
    fn exports(text: &str) -> Vec<String> {
        let statements = text.split(';').filter_map(|statement| {
            let statement = statement.trim();
            let statement = statement.rsplit("\n\n").next().unwrap().trim();
            let at = statement.find("pub use ").or_else(|| statement.find("pub(crate) use "))?;
            statement[at..].split_once(" use ").map(|(_, tree)| tree).or_else(|| statement[at..].strip_prefix("pub use "))
        });
        statements.flat_map(|tree| expand(&tree.split_whitespace().collect::<String>())).collect()
    }

    /// All paths of `text` that begin with `crate`, `self`, `super` or a bare name.
    fn paths(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("::") {
            let start = rest[..at].rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| i + 1);
            let tree = &rest[start..];
            let end = end(tree);
            found.extend(expand(&tree[..end].replace(" as ", "=").split_whitespace().collect::<String>()));
            rest = &tree[end.max(at + 2 - start)..];
        }
        found
    }

    /// Where the path or tree of paths at the beginning of `text` ends.
    fn end(text: &str) -> usize {
        let mut depth = 0;
        for (i, c) in text.char_indices() {
            match c {
                '{' if text[..i].ends_with("::") || depth > 0 => depth += 1,
                '}' if depth > 1 => depth -= 1,
                '}' if depth == 1 => return i + 1,
                _ if depth > 0 || c.is_alphanumeric() || "_:".contains(c) => {}
                _ => return i,
            }
        }
        text.len()
    }

    /// The paths of a tree such as `a::{b, c::{d, e}}`.
    fn expand(tree: &str) -> Vec<String> {
        let Some(open) = tree.find('{') else { return vec![tree.split('=').next().unwrap().trim_end_matches("::self").to_owned()] };
        let (head, inner) = (&tree[..open], tree[open + 1..].trim_end_matches(|c| c != '}').strip_suffix('}').unwrap_or(""));
        let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
        for (i, c) in inner.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(&inner[start..i]);
                    start = i + 1;
                }
                _ => {}
            }
        }
        parts.push(&inner[start..]);
        parts.iter().filter(|part| !part.is_empty()).flat_map(|part| expand(&format!("{head}{part}"))).collect()
    }
}
