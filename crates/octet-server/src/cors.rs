//! Which pages of other origins may call.

use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::config::CorsConfig;
use crate::error::ServerError;

/// The middleware for a configuration.
pub(crate) fn layer(config: &CorsConfig) -> Result<CorsLayer, ServerError> {
    let credentials = config.allow_credentials;
    // With credentials a browser takes `*` literally: the request's own values are repeated instead.
    let origins =
        match parse::<HeaderValue>("--allowed-origins", &config.allowed_origins, "it is not an origin")? {
            Some(origins) => AllowOrigin::list(origins),
            None if credentials => AllowOrigin::mirror_request(),
            None => AllowOrigin::any(),
        };
    let methods =
        match parse::<Method>("--allowed-methods", &config.allowed_methods, "it is not an HTTP method")? {
            Some(methods) => AllowMethods::list(methods),
            None if credentials => AllowMethods::mirror_request(),
            None => AllowMethods::any(),
        };
    let headers =
        match parse::<HeaderName>("--allowed-headers", &config.allowed_headers, "it is not a header's name")?
        {
            Some(headers) => AllowHeaders::list(headers),
            None => AllowHeaders::mirror_request(),
        };
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(methods)
        .allow_headers(headers)
        .allow_credentials(credentials))
}

/// The values, or `None` if one of them is `*`.
fn parse<T: std::str::FromStr>(
    flag: &'static str,
    values: &[String],
    problem: &'static str,
) -> Result<Option<Vec<T>>, ServerError> {
    if values.iter().any(|value| value == "*") {
        return Ok(None);
    }
    let one =
        |value: &String| value.parse().map_err(|_| ServerError::Cors { flag, value: value.clone(), problem });
    values.iter().map(one).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wildcard_goes_with_credentials() {
        for allow_credentials in [false, true] {
            let config = CorsConfig { allow_credentials, ..CorsConfig::default() };
            // A router checks the combination when it takes the layer, and panics on those that browsers refuse.
            let _: axum::Router = axum::Router::new().layer(layer(&config).unwrap());
        }
    }

    #[test]
    fn values_that_http_cannot_carry_are_named_with_their_flag() {
        let config = CorsConfig { allowed_methods: vec!["GE T".to_owned()], ..CorsConfig::default() };
        let message = layer(&config).unwrap_err().to_string();
        assert_eq!(message, "--allowed-methods has \"GE T\": it is not an HTTP method");
    }
}
