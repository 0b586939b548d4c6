//! Compiles policy files to a [`Policy`].

use std::collections::{HashMap, HashSet};

use sidegate_config::document::{Location, Node, Problem, Problems, Value};
use sidegate_config::schema::Profile;
use sidegate_config::value::{Cidr, Ports};

use crate::index::Index;
use crate::rule::{CompiledRule, size};
use crate::schema::{Action, PolicyFile, Rule};
use crate::when::When;

/// Rules of all files together.
const MAX_RULES: usize = 100_000;
/// Each costs time when its rule is a candidate, and any client can cause that; so their number is bounded.
const MAX_CONDITIONS: usize = 1000;

/// Rules that have been checked, ready to decide.
#[derive(Debug, Default)]
pub struct Policy {
    pub(crate) rules: Vec<CompiledRule>,
    /// Rules about connections to the workload.
    pub(crate) inbound: Index,
    /// Rules about connections from the workload: those that name destinations.
    pub(crate) outbound: Index,
    /// Destinations that an allow rule names.
    pub(crate) guarded: HashSet<Box<str>>,
    /// Warnings: allowed, but worth a look.
    pub warnings: Vec<String>,
}

impl Policy {
    /// Checks and compiles texts, each with the name of its source. One mistake in any of them rejects the whole set.
    ///
    /// # Errors
    /// Every mistake in any of them.
    pub fn parse(texts: &[(String, String)], profile: Profile) -> Result<Self, Problems> {
        let mut compiler =
            Compiler { profile, policy: Self::default(), problems: Problems::default(), names: HashMap::new(), conditions: 0 };
        for (source, text) in texts {
            // Texts beyond the bound are not read, since there may be many files with many rules.
            if compiler.policy.len() > MAX_RULES {
                break;
            }
            match sidegate_config::typed::<PolicyFile>(source, text) {
                Ok((file, root)) => {
                    for (index, rule) in file.rules.into_iter().enumerate() {
                        let path = format!("rules[{index}]");
                        if compiler.policy.len() == MAX_RULES {
                            let message =
                                format!("all files together have more than {MAX_RULES} rules; say with patterns what they can say");
                            compiler.wrong(&root.nearest(&path).location, &path, message);
                            break;
                        }
                        let dry_run = file.dry_run || rule.dry_run;
                        compiler.rule(rule, dry_run, text, root.nearest(&path), &path);
                    }
                }
                Err(mut wrong) => {
                    compiler.problems.0.append(&mut wrong.0);
                    compiler.look_over(source, text);
                }
            }
        }
        let Compiler { mut policy, problems, .. } = compiler;
        policy.warnings.extend(policy.contradictions());
        problems.or(policy)
    }

    fn add(&mut self, compiled: CompiledRule) {
        let number = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        if compiled.rule.to.destinations.is_empty() {
            self.inbound.add(number, &compiled);
        } else {
            self.outbound.add(number, &compiled);
            if compiled.rule.action == Action::Allow && !compiled.dry_run {
                self.guarded.extend(compiled.rule.to.destinations.iter().map(|name| Box::from(name.as_str())));
            }
        }
        self.rules.push(compiled);
    }

    /// Rules with equal conditions and opposite actions.
    fn contradictions(&self) -> Vec<String> {
        let mut first: HashMap<String, &CompiledRule> = HashMap::new();
        let mut found = Vec::new();
        for compiled in self.rules.iter().filter(|compiled| !compiled.is_aside()) {
            let rule = &compiled.rule;
            // Compared as text, since rules have no order: equal text means equal conditions.
            let Ok(asks) = serde_json::to_string(&(&rule.from, &rule.to, &rule.when)) else { continue };
            match first.get(&asks) {
                Some(other) if other.rule.action != rule.action => {
                    let (allow, deny) = if rule.action == Action::Deny { (*other, compiled) } else { (compiled, *other) };
                    found.push(format!(
                        "{}: rule `{}` allows exactly what rule `{}` at {} denies; deny wins: remove one of them",
                        allow.location, allow.rule.name, deny.rule.name, deny.location
                    ));
                }
                Some(_) => {}
                None => drop(first.insert(asks, compiled)),
            }
        }
        found
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

/// A policy under construction.
struct Compiler {
    profile: Profile,
    policy: Policy,
    problems: Problems,
    /// Where each name is defined.
    names: HashMap<String, Location>,
    /// How many rules have a condition.
    conditions: usize,
}

impl Compiler {
    fn wrong(&mut self, location: &Location, path: &str, message: String) {
        self.problems.0.push(Problem { location: location.clone(), path: path.to_owned(), message });
    }

    /// Checks a rule, which is `node` of the file `text`, and adds it.
    fn rule(&mut self, rule: Rule, dry_run: bool, text: &str, node: &Node, path: &str) {
        let location = &node.location;
        self.name(&rule.name, node, path);
        self.width(&rule, dry_run, node, path);
        let when = rule.when.as_ref().and_then(|condition| self.condition(condition, text, node.nearest("when"), &format!("{path}.when")));
        let label = format!("{} ({}:{})", rule.name, location.source, location.line).into();
        let size = size(&rule);
        self.policy.add(CompiledRule { rule, label, location: location.clone(), dry_run, when, size });
    }

    /// Checks what can still be checked in a file that does not match its schema, so that all mistakes are reported at once.
    fn look_over(&mut self, source: &str, text: &str) {
        let Ok((root, _)) = Node::read(source, text) else { return };
        let of_all = root.get("dryRun").is_some_and(|node| node.value == Value::Scalar(true.into()));
        let nodes = root.items("rules");
        for (index, (node, rule)) in nodes.iter().zip(sidegate_config::build_each::<Rule>(nodes)).take(MAX_RULES).enumerate() {
            let path = format!("rules[{index}]");
            if let Some(name) = node.text("name") {
                self.name(name, node, &path);
            }
            if let Some(condition) = node.text("when") {
                self.condition(condition, text, node.nearest("when"), &format!("{path}.when"));
            }
            if let Some(rule) = rule {
                self.width(&rule, of_all || rule.dry_run, node, &path);
            }
        }
    }

    /// Checks that a rule has a unique name.
    fn name(&mut self, name: &str, node: &Node, path: &str) {
        let location = &node.location;
        if name.trim().is_empty() {
            self.wrong(location, path, "give the rule a name; records show it".to_owned());
        } else if let Some(first) = self.names.get(name) {
            let message = format!("the name `{name}` is taken by the rule at {first}; give one of them another");
            self.wrong(location, path, message);
        } else {
            self.names.insert(name.to_owned(), location.clone());
        }
    }

    /// Checks that a rule allows no more than the profile permits.
    fn width(&mut self, rule: &Rule, dry_run: bool, node: &Node, path: &str) {
        let Some(what) = too_wide(rule).filter(|_| !dry_run) else { return };
        match self.profile {
            Profile::Production => {
                self.wrong(&node.location, path, format!("allows {what}; profile `production` refuses that: name the SPIFFE IDs"));
            }
            Profile::Development => self.policy.warnings.push(format!("{}: rule `{}` allows {what}", node.location, rule.name)),
        }
    }

    fn condition(&mut self, condition: &str, text: &str, node: &Node, path: &str) -> Option<When> {
        self.conditions += 1;
        if self.conditions == MAX_CONDITIONS + 1 {
            let message = format!("more than {MAX_CONDITIONS} rules have a condition; say with patterns what they can say");
            self.wrong(&node.location, path, message);
        }
        match When::compile(condition) {
            Ok(when) => Some(when),
            Err(mistakes) => {
                for mistake in mistakes {
                    self.wrong(&location_within(text, node, condition, mistake.at), path, mistake.message);
                }
                None
            }
        }
    }
}

/// Where in the file the byte `at` of a text is, which stands there as `node`, in whatever of YAML's ways it is written:
/// quoted, folded, or as a block. What is not white space is in the file in the same order.
fn location_within(file: &str, node: &Node, text: &str, at: usize) -> Location {
    let before: usize = file.split_inclusive('\n').take(node.location.line.saturating_sub(1)).map(str::len).sum();
    let value = file[before..].char_indices().nth(node.location.column.saturating_sub(1)).map_or("", |(at, _)| &file[before + at..]);
    let mut wanted = text.get(..at).unwrap_or(text).chars().filter(|c| !c.is_whitespace()).count();
    let mut letters = text.chars().filter(|c| !c.is_whitespace()).peekable();
    let (mut line, mut column) = (node.location.line, node.location.column);
    // A block's indicator, such as `|-`, is no part of the text.
    let mut inside = !value.starts_with(['|', '>']);
    for letter in value.chars() {
        if inside && letters.peek() == Some(&letter) {
            if wanted == 0 {
                return Location { source: node.location.source.clone(), line, column };
            }
            wanted -= 1;
            letters.next();
        }
        column += 1;
        if letter == '\n' {
            (line, column, inside) = (line + 1, 1, true);
        }
    }
    node.location.clone()
}

/// Whether an allow rule is too wide, and how: for everybody, or for a whole trust domain at every port. For connections from the
/// workload `from` is always the workload itself.
pub(crate) fn too_wide(rule: &Rule) -> Option<&'static str> {
    let (from, to) = (&rule.from, &rule.to);
    if rule.action != Action::Allow || !to.destinations.is_empty() {
        return None;
    }
    if from.spiffe_ids.is_empty() && from.trust_domains.is_empty() {
        return Some("every peer of every trust domain");
    }
    let whole_domain = !from.trust_domains.is_empty() || from.spiffe_ids.iter().any(|p| p.get().is_whole_trust_domain());
    let anything = every_port(&to.ports) && everywhere(&from.cidrs) && everywhere(&to.cidrs) && to.sni.is_empty();
    (whole_domain && anything).then_some("a whole trust domain at every port")
}

/// Whether `blocks` exclude no address: a block without a prefix covers all addresses of its family.
fn everywhere(blocks: &[Cidr]) -> bool {
    blocks.is_empty() || blocks.iter().any(|block| block.get().prefix_len() == 0)
}

/// Whether `blocks` leave out no address of either family.
pub(crate) fn everywhere_of_both(blocks: &[Cidr]) -> bool {
    let whole = |v4: bool| blocks.iter().any(|block| block.get().prefix_len() == 0 && block.get().addr().is_ipv4() == v4);
    whole(true) && whole(false)
}

/// Whether `ports` together cover all ports.
pub(crate) fn every_port(ports: &[Ports]) -> bool {
    let mut ranges: Vec<(u16, u16)> = ports.iter().map(|p| (p.get().first, p.get().last)).collect();
    ranges.sort_unstable();
    let covered =
        ranges.iter().try_fold(0, |covered: u16, (first, last)| (*first <= covered.saturating_add(1)).then_some(covered.max(*last)));
    ports.is_empty() || covered == Some(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(rules: &str) -> String {
        Policy::parse(&[("p".to_owned(), rules.to_owned())], Profile::Production).unwrap_err().to_string()
    }

    /// However YAML writes a condition, a mistake in it is reported with its own line and column.
    #[test]
    fn mistakes_in_a_condition_have_their_place() {
        let rule = "rules:\n  - name: a\n    action: deny\n";
        for (when, location) in [
            ("    when: true && per.id == 'x'\n", "p:4:19"),
            ("    when: \"true && per.id == 'x'\"\n", "p:4:20"),
            ("    when: 'true && per.id == ''x'''\n", "p:4:20"),
            ("    when: |\n      true &&\n        per.id == 'x'\n", "p:6:9"),
            ("    when: >-\n      true &&\n      per.id == 'x'\n", "p:6:7"),
            ("    when: true &&\n      per.id == 'x'\n", "p:5:7"),
        ] {
            let said = problems(&format!("{rule}{when}"));
            assert!(said.contains(&format!("{location}: rules[0].when: `per` is not known")), "{when}{said}");
        }
        let said = problems(&format!("{rule}    when: time.hour >\n"));
        assert!(said.contains("p:4:") && said.contains("rules[0].when: is not CEL"), "{said}");
    }

    #[test]
    fn conflicts_between_files_name_both_places() {
        let rule = |name: &str, action: &str| {
            format!("rules:\n  - name: {name}\n    action: {action}\n    from: {{ spiffeIds: ['spiffe://a.b/x'] }}\n")
        };
        let parse = |a: String, b: String| Policy::parse(&[("a.yaml".to_owned(), a), ("b.yaml".to_owned(), b)], Profile::Production);
        let taken = parse(rule("x", "allow"), rule("x", "allow")).unwrap_err().to_string();
        assert!(taken.contains("b.yaml:2:5: rules[0]: the name `x` is taken by the rule at a.yaml:2:5"), "{taken}");
        for (first, second, said) in [
            ("allow", "deny", "a.yaml:2:5: rule `x` allows exactly what rule `y` at b.yaml:2:5 denies"),
            ("deny", "allow", "b.yaml:2:5: rule `y` allows exactly what rule `x` at a.yaml:2:5 denies"),
        ] {
            let warnings = parse(rule("x", first), rule("y", second)).unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(said), "{warnings:?}");
        }
        for (first, second) in [("allow", "allow"), ("allow", "audit")] {
            assert!(parse(rule("x", first), rule("y", second)).unwrap().warnings.is_empty());
        }
        assert!(parse(rule("x", "allow"), format!("dryRun: true\n{}", rule("y", "deny"))).unwrap().warnings.is_empty());
    }

    #[test]
    fn the_number_of_rules_and_the_length_of_their_names_are_bounded() {
        let rules = |from: usize, to: usize| -> String {
            let rule = |i| format!("- {{ name: r{i}, action: deny }}\n");
            format!("rules:\n{}", (from..to).map(rule).collect::<String>())
        };
        let parse = |texts: &[(String, String)]| Policy::parse(texts, Profile::Production).map(|policy| policy.len());
        let file = |name: &str, text| (name.to_owned(), text);
        let half = MAX_RULES / 2;
        let mut texts = vec![file("a", rules(0, half)), file("b", rules(half, MAX_RULES))];
        assert_eq!(parse(&texts), Ok(MAX_RULES));
        texts.push(file("c", rules(MAX_RULES, MAX_RULES + 2)));
        let said = parse(&texts).unwrap_err().to_string();
        assert_eq!(said, "c:2:3: rules[0]: all files together have more than 100000 rules; say with patterns what they can say");
        assert!(problems(&rules(0, MAX_RULES + 1)).contains("rules: has 100001 entries, 100000 are the most"));
        let long = format!("rules:\n- {{ name: {}, action: deny }}\n", "n".repeat(257));
        assert!(problems(&long).contains("p:2:11: rules[0].name: has 257 characters, 256 are the most"));
        let ids = format!("rules:\n- {{ name: x, action: deny, from: {{ cidrs: [{}] }} }}\n", "10.0.0.0/8, ".repeat(1001));
        assert!(problems(&ids).contains("rules[0].from.cidrs: has 1001 entries, 1000 are the most"), "{}", problems(&ids));
    }

    #[test]
    fn the_number_of_conditions_is_bounded() {
        let rules: String = (0..=MAX_CONDITIONS).map(|i| format!("  - {{ name: r{i}, action: deny, when: 'time.hour == 1' }}\n")).collect();
        assert!(problems(&format!("rules:\n{rules}")).contains("rules[1000].when: more than 1000 rules have a condition"));
    }

    #[test]
    fn mistakes_are_reported_at_once_with_their_place() {
        let said = problems(
            "rules:\n  - name: a\n    action: alow\n  - nam: b\n    action: deny\n  - name: c\n    action: deny\n    from: { cidrs: [10.0.0.1/8] }\n",
        );
        for say in [
            "p:3:13: rules[0].action: `alow` is not known; use allow, deny, audit",
            "p:4:5: rules[1].nam: unknown key; did you mean `name`?",
            "p:8:",
            "10.0.0.0/8",
        ] {
            assert!(said.contains(say), "{said}");
        }
    }

    #[test]
    fn production_refuses_rules_that_allow_everything() {
        for wide in [
            "{}",
            "{ trustDomains: [a.b] }",
            "{ spiffeIds: ['spiffe://a.b/**'] }",
            "{ cidrs: [0.0.0.0/0] }",
            "{ trustDomains: [a.b], cidrs: [0.0.0.0/0, '::/0'] }",
            "{ spiffeIds: ['spiffe://a.b/*', 'spiffe://a.b/*/**'] }",
            "{ trustDomains: [a.b] }\n    to: { ports: [1-32767, 32768-65535] }",
            "{ trustDomains: [a.b] }\n    to: { cidrs: ['::/0'] }",
            "{ not: { spiffeIds: ['spiffe://a.b/x'] } }",
            "{ trustDomains: [a.b] }\n    when: 'true'",
        ] {
            let text = format!("rules:\n  - name: a\n    action: allow\n    from: {wide}\n");
            assert!(problems(&text).contains("profile `production` refuses"), "{wide}");
            assert_eq!(Policy::parse(&[("p".to_owned(), text)], Profile::Development).unwrap().warnings.len(), 1);
        }
        for fine in ["    dryRun: true\n", "    to: { destinations: [db] }\n"] {
            let text = format!("rules:\n  - name: a\n    action: allow\n{fine}");
            assert!(Policy::parse(&[("p".to_owned(), text)], Profile::Production).is_ok(), "{fine}");
        }
        assert!(Policy::parse(&[], Profile::Production).unwrap().is_empty());
    }
}
