//! Lists of plugins: which one the runtime takes, and the plugin's place at the end of it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sidegate_config::file;

use super::network_config::PLUGIN;
use super::replace::LONGEST;
use super::version::VERSIONS;

/// A file with a network configuration.
#[derive(Debug)]
pub(crate) enum Network {
    /// A list of plugins.
    List(PathBuf),
    /// A single plugin, to which none can be chained before it is in a list.
    Single(PathBuf),
}

/// The configuration that a runtime takes: the first one, by name, that can be read. None: there is none yet.
pub(crate) fn first(folder: &Path) -> io::Result<Option<Network>> {
    Ok(files(folder)?.into_iter().find_map(|path| {
        let value = serde_json::from_slice::<Value>(&file::read(&path, LONGEST).ok()?).ok()?;
        match path.extension() {
            Some(extension) if extension == "conflist" => is_list(&value).then_some(Network::List(path)),
            _ => value["type"].is_string().then_some(Network::Single(path)),
        }
    }))
}

/// All files with network configurations, in the order in which a runtime looks at them.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_one = path.extension().and_then(OsStr::to_str).is_some_and(|extension| ["conf", "conflist", "json"].contains(&extension));
        if is_one && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_list(value: &Value) -> bool {
    value["plugins"].as_array().is_some_and(|plugins| !plugins.is_empty())
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

/// Whether the plugin is in this list.
pub(crate) fn has_plugin(text: &[u8]) -> bool {
    let list: Value = serde_json::from_slice(text).unwrap_or_default();
    list["plugins"].as_array().into_iter().flatten().any(is_ours)
}

/// The list with `entry` as its last plugin; none if it is that already, or is no list.
pub(crate) fn chained(text: &[u8], entry: &Value) -> Option<Vec<u8>> {
    let mut list: Value = serde_json::from_slice(text).ok().filter(is_list)?;
    let before = list.clone();
    let plugins = list["plugins"].as_array_mut()?;
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.push(entry.clone());
    (list != before).then(|| written(&list))
}

/// The list without the plugin; none if it does not have it.
pub(crate) fn unchained(text: &[u8]) -> Option<Vec<u8>> {
    let mut list: Value = serde_json::from_slice(text).ok().filter(is_list)?;
    let plugins = list["plugins"].as_array_mut()?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    (plugins.len() < before).then(|| written(&list))
}

/// A list of one plugin and `entry`; none if `text` is no plugin.
pub(crate) fn listed(text: &[u8], entry: &Value) -> Option<Vec<u8>> {
    let plugin: Value = serde_json::from_slice(text).ok()?;
    plugin["type"].as_str()?;
    let list = json!({ "cniVersion": plugin["cniVersion"], "name": plugin["name"], "plugins": [plugin, entry] });
    Some(written(&list))
}

/// The version of a configuration, if the plugin can't be called with it.
pub(crate) fn unsupported(text: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let version = value["cniVersion"].as_str().unwrap_or("0.1.0");
    (!VERSIONS.contains(&version)).then(|| version.to_owned())
}

fn written(list: &Value) -> Vec<u8> {
    format!("{list:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": "bridge" }, { "type": "portmap", "x": 1.5 }] }"#;

    #[test]
    fn the_plugin_is_last_and_once() {
        let entry = json!({ "type": PLUGIN, "apiServer": "https://a" });
        let once = chained(LIST.as_bytes(), &entry).unwrap();
        assert!(has_plugin(&once) && !has_plugin(LIST.as_bytes()));
        assert_eq!(chained(&once, &entry), None);
        let changed = chained(&once, &json!({ "type": PLUGIN, "apiServer": "https://b" })).unwrap();
        let types = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap()["plugins"].as_array().unwrap().len();
        assert_eq!((types(&once), types(&changed)), (3, 3));
        let back: Value = serde_json::from_slice(&unchained(&changed).unwrap()).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(LIST).unwrap());
        assert_eq!(unchained(LIST.as_bytes()), None);
        for no_list in ["{", "{}", r#"{ "plugins": [] }"#, r#"{ "plugins": 1 }"#, r#"{ "type": "bridge" }"#] {
            assert_eq!(chained(no_list.as_bytes(), &entry), None, "{no_list}");
        }
    }

    #[test]
    fn the_first_configuration_that_can_be_read_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert!(first(folder.path()).unwrap().is_none());
        write("00-broken.conflist", "{ \"plugins\": [");
        write("01-other.txt", LIST);
        write("20-b.conflist", LIST);
        assert!(matches!(first(folder.path()).unwrap(), Some(Network::List(path)) if path.ends_with("20-b.conflist")));
        write("10-a.conf", r#"{ "cniVersion": "0.2.0", "name": "n", "type": "ptp" }"#);
        assert!(matches!(first(folder.path()).unwrap(), Some(Network::Single(path)) if path.ends_with("10-a.conf")));
        assert_eq!(unsupported(br#"{ "cniVersion": "0.2.0" }"#).as_deref(), Some("0.2.0"));
        assert_eq!(unsupported(LIST.as_bytes()), None);
    }
}
