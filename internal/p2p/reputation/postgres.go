package reputation

import (
	"context"
	"errors"
	"log/slog"
)

func openPostgres(context.Context, string, *slog.Logger) (store, error) {
	return nil, errors.New("bans.store: PostgreSQL is not there yet")
}
