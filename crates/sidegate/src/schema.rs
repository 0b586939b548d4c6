//! `sidegate schema`.

use anyhow::Result;
use sidegate_admin::connections::Line;
use sidegate_admin::v1::Status;
use sidegate_config::schema::DenyList;
use sidegate_config::{Config, json_schema, json_schema_of_output};
use sidegate_core::ConnectionRecord;
use sidegate_policy::schema::PolicyFile;
use sidegate_policy::suite::Suite;

use crate::cli::{self, SchemaOf};
use crate::output::say_pretty_json;

/// Prints a JSON Schema.
pub(crate) fn schema(arguments: &cli::SchemaArgs) -> Result<()> {
    let schema = match arguments.of {
        SchemaOf::Config => json_schema::<Config>(),
        SchemaOf::Policy => json_schema::<PolicyFile>(),
        SchemaOf::DenyList => json_schema::<DenyList>(),
        SchemaOf::PolicyTest => json_schema::<Suite>(),
        SchemaOf::Audit => json_schema::<sidegate_evidence::Record>(),
        SchemaOf::AccessLog => json_schema_of_output::<ConnectionRecord>(),
        SchemaOf::Connections => json_schema_of_output::<Line>(),
        SchemaOf::Status => json_schema_of_output::<Status>(),
        #[cfg(feature = "development")]
        SchemaOf::Authority => json_schema::<sidegate_devkit::authority::AuthorityConfig>(),
        #[cfg(not(feature = "development"))]
        SchemaOf::Authority => anyhow::bail!("this build has no embedded authority"),
    };
    say_pretty_json(&schema)
}
