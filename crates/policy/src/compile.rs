//! From files to a [`Policy`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use sidegate_config::document::{Problem, Problems};
use sidegate_config::schema::Profile;
use sidegate_config::value::{Cidr, Ports};

use crate::schema::{Action, PolicyFile, Rule};

/// Rules that have been checked, ready to decide.
#[derive(Debug, Default)]
pub struct Policy {
    pub(crate) rules: Vec<Compiled>,
    /// What a person should know, though it is allowed.
    pub warnings: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rule: Rule,
    /// `name (file:line)`, shared with every record that the rule decides.
    pub(crate) label: Arc<str>,
}

/// Why policy files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file can't be read.
    #[error("policy file {0} can't be read: {1}; check `policy.files`")]
    Read(PathBuf, std::io::Error),
    /// There are mistakes in the files.
    #[error("{0}")]
    Invalid(Problems),
}

impl Policy {
    /// Reads, checks and compiles `files`. Nothing is used of a set in which one has a mistake.
    ///
    /// # Errors
    /// Every mistake in all files, or the first file that can't be read.
    pub fn load(files: &[PathBuf], profile: Profile) -> Result<Self, PolicyError> {
        Self::parse(&Self::read(files)?, profile).map_err(PolicyError::Invalid)
    }

    /// The texts of `files` with their names, for [`Policy::parse`].
    ///
    /// # Errors
    /// The first file that can't be read.
    pub fn read(files: &[PathBuf]) -> Result<Vec<(String, String)>, PolicyError> {
        let read = |file: &PathBuf| std::fs::read_to_string(file).map_err(|e| PolicyError::Read(file.clone(), e));
        files.iter().map(|file| Ok((file.display().to_string(), read(file)?))).collect()
    }

    /// As [`Policy::load`], from texts with the names of their sources.
    ///
    /// # Errors
    /// Every mistake in all of them.
    pub fn parse(texts: &[(String, String)], profile: Profile) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut names: HashMap<String, String> = HashMap::new();
        let mut policy = Self::default();
        for (source, text) in texts {
            let (file, root) = match sidegate_config::typed::<PolicyFile>(source, text) {
                Ok(parsed) => parsed,
                Err(mut wrong) => {
                    problems.0.append(&mut wrong.0);
                    continue;
                }
            };
            for (index, rule) in file.rules.into_iter().enumerate() {
                let place = &root.nearest(&format!("rules[{index}]")).place;
                let mut say = |message: String| {
                    problems.0.push(Problem { place: place.clone(), path: format!("rules[{index}]"), message });
                };
                if rule.name.trim().is_empty() {
                    say("give the rule a name; records show it".to_owned());
                } else if let Some(first) = names.insert(rule.name.clone(), place.to_string()) {
                    say(format!("the name `{}` is taken by the rule at {first}", rule.name));
                }
                if let Some(what) = too_wide(&rule) {
                    match profile {
                        Profile::Production => say(format!("allows {what}; profile `production` refuses that: name the SPIFFE IDs")),
                        Profile::Development => policy.warnings.push(format!("{place}: rule `{}` allows {what}", rule.name)),
                    }
                }
                let label = format!("{} ({}:{})", rule.name, place.source, place.line).into();
                policy.rules.push(Compiled { rule, label });
            }
        }
        problems.or(policy)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// What an allow rule lets in that no one meant, if so: everybody, or a whole trust domain at every port.
fn too_wide(rule: &Rule) -> Option<&'static str> {
    let (from, to) = (&rule.from, &rule.to);
    if rule.action != Action::Allow {
        return None;
    }
    if from.spiffe_ids.is_empty() && from.trust_domains.is_empty() {
        return Some("every peer of every trust domain");
    }
    let whole_domain = !from.trust_domains.is_empty() || from.spiffe_ids.iter().any(|p| p.get().is_whole_trust_domain());
    let anything = every_port(&to.ports) && everywhere(&from.cidrs) && everywhere(&to.cidrs) && to.sni.is_empty();
    (whole_domain && anything).then_some("a whole trust domain at every port")
}

/// Whether `blocks` ask nothing: a block without a prefix is all addresses of its family.
fn everywhere(blocks: &[Cidr]) -> bool {
    blocks.is_empty() || blocks.iter().any(|block| block.get().prefix_len() == 0)
}

/// Whether `ports` together leave none out.
fn every_port(ports: &[Ports]) -> bool {
    let mut ranges: Vec<(u16, u16)> = ports.iter().map(|p| (p.get().first, p.get().last)).collect();
    ranges.sort_unstable();
    let covered =
        ranges.iter().try_fold(0, |covered: u16, (first, last)| (*first <= covered.saturating_add(1)).then_some(covered.max(*last)));
    ports.is_empty() || covered == Some(u16::MAX)
}
