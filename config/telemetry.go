package config

import (
	"net"
	"net/url"
	"strings"
)

const otlpKey = "telemetry.otlp_endpoint"

const maxServiceName = 128 // bytes

func checkOTLP(_ *checker, c *Config) []problem {
	text := c.Telemetry.OTLPEndpoint
	if text == "" {
		return nil
	}
	if u, err := url.Parse(text); err == nil && u.User != nil {
		return one(RuleSecretValue, "has a user in it: give credentials as OTEL_EXPORTER_OTLP_HEADERS in the environment")
	}
	if err := checkURL(text, true); err != nil {
		return one(RuleRange, "%s is no URL of an OTLP endpoint like http://host:4318", quote(text))
	}
	return nil
}

func checkServiceName(_ *checker, c *Config) []problem {
	if name := c.Telemetry.ServiceName; len(name) > maxServiceName || strings.ContainsFunc(name, unprintable) {
		return one(RuleRange, "%s is not printable text of at most %d bytes", quote(name), maxServiceName)
	}
	return nil
}

func checkSampleRatio(_ *checker, c *Config) []problem {
	if r := c.Telemetry.SampleRatio; !(r >= 0 && r <= 1) { // nor is it NaN
		return one(RuleRange, "%s is not from 0 to 1", format(&c.Telemetry.SampleRatio))
	}
	return nil
}

// jaegerEndpoint makes an OTLP endpoint of the address of Jaeger's collector,
// whose old port takes Thrift.
func jaegerEndpoint(_ *Config, text string) (any, error) {
	u, err := url.Parse(text)
	if text == "" || err != nil || u.Host == "" {
		return text, nil // the check of the key tells what is wrong
	}
	port := u.Port()
	if port == "" || port == "14268" {
		port = "4318"
	}
	return u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port), nil
}
