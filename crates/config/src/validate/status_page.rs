//! What is wrong with the status page.

use crate::schema::{Config, Profile, ServePage};

/// Adds what is wrong with `admin.statusPage`.
pub(super) fn validate(config: &Config, say: &mut impl FnMut(&str, String)) {
    let admin = &config.admin;
    let page = &admin.status_page;
    let Some(listen) = &admin.listen else {
        if page.serve == ServePage::On {
            say("admin.statusPage.serve", "nobody can ask for it: `admin.listen` is null".to_owned());
        }
        return;
    };
    if !page.names.is_empty() && !admin.serves_page() {
        say("admin.statusPage.names", "the page is not served: set `admin.statusPage.serve` to `auto`, or leave out the names".to_owned());
    }
    let is_written = page.reason.as_ref().is_some_and(|text| !text.trim().is_empty());
    if config.profile == Profile::Production && page.serve == ServePage::On && !listen.0.ip().is_loopback() && !is_written {
        let message = format!(
            "anyone who reaches {listen} would see identities, peers and addresses: profile `production` wants the why in `admin.statusPage.reason`"
        );
        say("admin.statusPage.serve", message);
    }
}

#[cfg(test)]
mod tests {
    use crate::load::parse;

    /// Whether the page is served, or what is said of a configuration.
    fn served(admin: &str) -> Result<bool, String> {
        let config = parse("f.yaml", &format!("admin: {{ {admin} }}\n"));
        config.map(|config| config.admin.serves_page()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_page_is_served_unless_it_is_off_or_nothing_listens() {
        for (admin, expected) in [
            ("", true),
            ("listen: '[::1]:15020'", true),
            ("listen: '0.0.0.0:15020'", true),
            ("listen: '10.0.0.1:15020', statusPage: { names: [a.example] }", true),
            ("listen: null", false),
            ("statusPage: { serve: off }", false),
            ("listen: '10.0.0.1:15020', statusPage: { serve: on, reason: 'a network policy guards it', names: [web.example] }", true),
            ("statusPage: { names: [web.example] }", true),
        ] {
            assert_eq!(served(admin), Ok(expected), "{admin}");
        }
    }

    #[test]
    fn what_contradicts_itself_or_shows_too_much_is_refused() {
        for (admin, said) in [
            ("listen: '10.0.0.1:15020', statusPage: { serve: on }", "serve: anyone who reaches 10.0.0.1:15020 would see"),
            ("listen: '10.0.0.1:15020', statusPage: { serve: on, reason: ' ' }", "wants the why in `admin.statusPage.reason`"),
            ("listen: null, statusPage: { serve: on }", "serve: nobody can ask for it"),
            ("statusPage: { serve: off, names: [a.example] }", "names: the page is not served: set"),
        ] {
            let problems = served(admin).unwrap_err();
            assert!(problems.starts_with("f.yaml:1:") && problems.contains(said), "{admin}\n{problems}");
        }
        let development = "profile: development\nadmin: { listen: '10.0.0.1:15020', statusPage: { serve: on } }\n";
        assert!(parse("f.yaml", development).is_ok());
    }
}
