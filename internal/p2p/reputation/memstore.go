package reputation

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// memory is a store for as long as the process lives.
type memory struct {
	mu   sync.Mutex
	rev  int64
	rows map[Target][]row
}

func (m *memory) since(_ context.Context, rev int64) (list []row, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, rows := range m.rows {
		for _, r := range rows {
			if r.rev > rev {
				list = append(list, r)
			}
		}
	}
	slices.SortFunc(list, func(a, b row) int { return int(a.rev - b.rev) })
	return list, nil
}

func (m *memory) write(_ context.Context, ops []op) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rows == nil {
		m.rows = map[Target][]row{}
	}
	for _, o := range ops {
		for _, r := range o.on(m.rows[o.row.target]) {
			m.rev++
			r.rev = m.rev
			t := r.target
			m.rows[t] = append(slices.DeleteFunc(m.rows[t], func(old row) bool { return old.scope == r.scope }), r)
		}
	}
	return nil
}

func (m *memory) purge(_ context.Context, before time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for t, rows := range m.rows {
		m.rows[t] = slices.DeleteFunc(rows, func(r row) bool { return r.forgotten(before.Add(remembered)) })
	}
	maps.DeleteFunc(m.rows, func(_ Target, rows []row) bool { return len(rows) == 0 })
	return nil
}

func (m *memory) watch(ctx context.Context, _ func()) { <-ctx.Done() }

func (m *memory) close() error { return nil }
