//! The dependencies between the modules of `src`: folders import lower layers only, and the files of
//! a folder do not import each other in a circle. Code under `#[cfg(test)]` may import anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The folders of `src` by layer, lowest first. A folder imports lower layers only; `fuzzing` drives
/// all of them.
const LAYERS: [&[&str]; 8] = [
    &["kernels", "data", "store"],
    &["ops"],
    &["model"],
    &["infer"],
    &["engine", "train"],
    &["serve"],
    &["cli"],
    &["fuzzing"],
];

/// A path as written in the source or from the crate's root, one name per element.
type ModulePath = Vec<String>;

#[derive(Default)]
struct Module {
    file: String,
    /// Paths that the module names, as written, without those that it re-exports.
    imports: Vec<ModulePath>,
    /// Paths that it re-exports.
    exports: Vec<ModulePath>,
}

type Modules = BTreeMap<ModulePath, Module>;

/// Reads the modules in `dir`, whose own module is `path`.
fn read_modules(dir: &Path, path: &[String], modules: &mut Modules) {
    for entry in fs::read_dir(dir).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap().to_string();
        if file.is_dir() {
            read_modules(&file, &[path, &[name]].concat(), modules);
        } else if file.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let mut module = Module {
                file: file.strip_prefix(root).unwrap().display().to_string(),
                ..Default::default()
            };
            module.parse(&without_tests(&fs::read_to_string(&file).unwrap()));
            let path = match &*name {
                "mod" => path.to_vec(),
                _ => [path, &[name]].concat(),
            };
            modules.insert(path, module);
        }
    }
}

/// Removes comments and items under `#[cfg(test)]` from source formatted by rustfmt.
fn without_tests(source: &str) -> String {
    let mut kept = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        if code.starts_with("#[cfg(test)]") {
            let end = format!("{indent}}}");
            let _ = lines.find(|line| *line == end || line.ends_with(';') && !line.contains("  "));
        } else if !code.starts_with("//") {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

impl Module {
    fn parse(&mut self, source: &str) {
        let mut rest = source;
        let mut statement = "";
        while let Some(start) = rest.find(|c: char| c.is_alphanumeric() || "_;{}".contains(c)) {
            rest = &rest[start..];
            let mut paths = Vec::new();
            let after = parse_path(rest, &[], &mut paths);
            if after.len() == rest.len() {
                statement = "";
                rest = &rest[1..];
                continue;
            }
            if ["pub", "use"].contains(&&*paths[0][0]) && paths[0].len() == 1 {
                statement = match (&*paths[0][0], statement) {
                    ("use", "pub") => "pub use",
                    ("pub", _) => "pub",
                    _ => "use",
                };
            }
            match statement {
                "pub use" => self.exports.append(&mut paths),
                _ => self.imports.append(&mut paths),
            }
            rest = after;
        }
    }
}

/// Parses the path or `use` tree at the start of `source` into paths. Returns what follows it.
fn parse_path<'a>(source: &'a str, prefix: &[String], paths: &mut Vec<ModulePath>) -> &'a str {
    let end = source.find(|c: char| !c.is_alphanumeric() && c != '_');
    let (name, rest) = source.split_at(end.unwrap_or(source.len()));
    if name.is_empty() {
        return source;
    }
    let path = [prefix, &[name.to_string()]].concat();
    let Some(tail) = rest.strip_prefix("::") else {
        paths.push(path);
        return rest;
    };
    let Some(mut group) = tail.strip_prefix('{') else {
        let after = parse_path(tail, &path, paths);
        if after.len() == tail.len() {
            // A glob or generic arguments.
            paths.push(path);
        }
        return after;
    };
    loop {
        group = group.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if group.is_empty() || group.starts_with('}') {
            return group;
        }
        let after = parse_path(group, &path, paths);
        let end = after.find([',', '}']).unwrap_or(after.len());
        group = &after[end.max(usize::from(after.len() == group.len()))..];
    }
}

/// The module that defines what `written` names in the module `current`, through re-exports; `None`
/// for other crates and local names.
fn resolve(modules: &Modules, current: &[String], written: &[String]) -> Option<ModulePath> {
    let mut absolute = current.to_vec();
    let mut names = written.iter().peekable();
    match written[0].as_str() {
        "crate" => {
            names.next();
            absolute.clear();
        }
        "super" => {
            while names.next_if(|name| *name == "super").is_some() {
                absolute.pop()?;
            }
        }
        "self" => {
            names.next();
        }
        child if modules.contains_key(&[current, &[child.to_string()]].concat()) => {}
        _ => return None,
    }
    for name in names {
        absolute.push(name.clone());
        if !modules.contains_key(&absolute) {
            absolute.pop();
            let mut exports = modules.get(&absolute)?.exports.iter();
            let export = exports.find(|export| export.last() == Some(name));
            return match export {
                Some(export) => resolve(modules, &absolute, export),
                None => Some(absolute),
            };
        }
    }
    Some(absolute)
}

/// The modules of `src` and, for each, the modules that it imports.
fn imports() -> (Modules, BTreeMap<ModulePath, BTreeSet<ModulePath>>) {
    let mut modules = Modules::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read_modules(&src, &[], &mut modules);
    modules.remove(&["main".to_string()][..]);
    let imports = modules.iter().map(|(path, module)| {
        // A single name is a visibility: `pub(crate)`, `pub(super)`.
        let resolved = module.imports.iter().filter(|written| written.len() > 1);
        let mut targets: BTreeSet<ModulePath> = resolved
            .filter_map(|written| resolve(&modules, path, written))
            .collect();
        targets.remove(path);
        (path.clone(), targets)
    });
    let imports = imports.collect();
    (modules, imports)
}

#[test]
fn folders_import_lower_layers_only() {
    let (modules, imports) = imports();
    let layer = |path: &ModulePath| {
        let folder = path.first()?;
        LAYERS.iter().position(|layer| layer.contains(&&**folder))
    };
    let mut violations = Vec::new();
    for (path, targets) in &imports {
        let file = &modules[path].file;
        let Some(own) = layer(path) else {
            assert!(path.len() < 2, "{file}: add its folder to LAYERS");
            continue;
        };
        for target in targets {
            if target.first() != path.first() && layer(target).is_none_or(|other| other >= own) {
                violations.push(format!("{file} imports {}", target.join("::")));
            }
        }
    }
    assert!(imports.len() > 50, "{} modules", imports.len());
    assert!(violations.is_empty(), "upward imports: {violations:#?}");
}

#[test]
fn files_of_a_folder_do_not_import_each_other_in_a_circle() {
    let (modules, mut imports) = imports();
    for (path, targets) in &mut imports {
        targets.retain(|target| target.first() == path.first());
    }
    // Removes files without imports until only those of circles, or that import these, are left.
    loop {
        let left: BTreeSet<ModulePath> = imports.keys().cloned().collect();
        imports.retain(|_, targets| {
            targets.retain(|target| left.contains(target));
            !targets.is_empty()
        });
        if imports.len() == left.len() {
            break;
        }
    }
    let circles: Vec<String> = imports
        .iter()
        .map(|(path, targets)| {
            let targets: Vec<&str> = targets.iter().map(|t| &*modules[t].file).collect();
            format!("{} imports {}", modules[path].file, targets.join(", "))
        })
        .collect();
    assert!(circles.is_empty(), "imports in a circle: {circles:#?}");
}
