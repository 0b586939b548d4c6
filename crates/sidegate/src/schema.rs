//! `sidegate schema`.

use anyhow::Result;
use sidegate_config::schema::DenyList;
use sidegate_config::{Config, json_schema};
use sidegate_policy::schema::PolicyFile;
use sidegate_policy::suite::Suite;

use crate::cli::{self, SchemaOf};
use crate::say::say_pretty_json;

/// Prints the JSON Schema of a file.
pub(crate) fn schema(arguments: &cli::Schema) -> Result<()> {
    let schema = match arguments.of {
        SchemaOf::Config => json_schema::<Config>(),
        SchemaOf::Audit => json_schema::<sidegate_audit::Record>(),
        SchemaOf::Policy => json_schema::<PolicyFile>(),
        SchemaOf::DenyList => json_schema::<DenyList>(),
        SchemaOf::PolicyTest => json_schema::<Suite>(),
        #[cfg(feature = "development")]
        SchemaOf::Authority => json_schema::<sidegate_authority::AuthorityConfig>(),
        #[cfg(not(feature = "development"))]
        SchemaOf::Authority => anyhow::bail!("this build has no embedded authority"),
    };
    say_pretty_json(&schema)
}
