package discovery

import (
	"os"

	golog "github.com/ipfs/go-log/v2"
)

// The library of the DHT logs to standard error, for the whole process, and
// most of its errors are about what some peer did.
func init() {
	if _, asked := os.LookupEnv("GOLOG_LOG_LEVEL"); !asked {
		golog.SetAllLoggers(golog.LevelFatal)
	}
}
