package config

import (
	"strings"
	"testing"
)

func TestTelemetry(t *testing.T) {
	l := load(t, LoadArgs{Environ: []string{"JAEGER_ENDPOINT=http://jaeger:14268/api/traces", "OTEL_SERVICE_NAME=x", "OTEL_EXPORTER_OTLP_HEADERS=a=b"}})
	if l.Telemetry != (Telemetry{OTLPEndpoint: "http://jaeger:4318", ServiceName: "x", SampleRatio: 0.1}) {
		t.Errorf("%+v", l.Telemetry)
	}
	if len(l.Warnings) != 1 || l.Warnings[0] != "env JAEGER_ENDPOINT: is read as telemetry.otlp_endpoint: traces go by OTLP over HTTP, port 4318" {
		t.Errorf("warnings %q", l.Warnings)
	}
	l = load(t, LoadArgs{Environ: []string{"JAEGER_ENDPOINT=http://j:1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://o:4318"}})
	if l.Telemetry.OTLPEndpoint != "http://o:4318" || len(l.Warnings) != 1 || !strings.Contains(l.Warnings[0], "OTEL_EXPORTER_OTLP_ENDPOINT is set too") {
		t.Errorf("both: %s %q", l.Telemetry.OTLPEndpoint, l.Warnings)
	}
	if l = load(t, LoadArgs{Environ: []string{"JAEGER_ENDPOINT="}}); l.Telemetry.OTLPEndpoint != "" || len(l.Warnings) != 0 {
		t.Errorf("empty: %+v %q", l.Telemetry, l.Warnings)
	}
	dir := t.TempDir()
	write(t, dir, "parley.toml", "telemetry = { sample_ratio = 1, otlp_endpoint = \"https://h/otlp\" }")
	if l = load(t, LoadArgs{Dir: dir}); l.Telemetry.SampleRatio != 1 || value(l, "telemetry.sample_ratio").Value != "1" {
		t.Errorf("%+v", l.Telemetry)
	}
	for text, want := range map[string]string{
		"telemetry.sample_ratio=1.5":                "flag --set telemetry.sample_ratio: telemetry.sample_ratio: 1.5 is not from 0 to 1 [PLY-101 range]",
		"telemetry.sample_ratio=NaN":                "flag --set telemetry.sample_ratio: telemetry.sample_ratio: NaN is not from 0 to 1 [PLY-101 range]",
		"telemetry.sample_ratio=x":                  "flag --set telemetry.sample_ratio: telemetry.sample_ratio: \"x\" is not a number like 0.1 [PLY-101 type]",
		"telemetry.otlp_endpoint=jaeger:4318":       "flag --set telemetry.otlp_endpoint: telemetry.otlp_endpoint: \"jaeger:4318\" is no URL of an OTLP endpoint like http://host:4318 [PLY-101 range]",
		"telemetry.otlp_endpoint=http://a:hush@h:1": "flag --set telemetry.otlp_endpoint: telemetry.otlp_endpoint: has a user in it: give credentials as OTEL_EXPORTER_OTLP_HEADERS in the environment [PLY-101 secret_value]",
		"telemetry.service_name=a\tb":               "flag --set telemetry.service_name: telemetry.service_name: \"a\\tb\" is not printable text of at most 128 bytes [PLY-101 range]",
	} {
		key, v, _ := strings.Cut(text, "=")
		_, err := loadIn(t, LoadArgs{Flags: map[string]string{key: v}})
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	if _, err := loadIn(t, LoadArgs{Environ: []string{"JAEGER_ENDPOINT=jaeger"}}); err == nil || !strings.HasPrefix(err.Error(), "env JAEGER_ENDPOINT: telemetry.otlp_endpoint: \"jaeger\" is no URL") {
		t.Errorf("no URL: %v", err)
	}
}
