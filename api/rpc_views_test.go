package api

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/parley-p2p/parley"
	pb "github.com/parley-p2p/parley/api/proto/parley/v1"
	"github.com/parley-p2p/parley/config"
)

// TestMessagesHaveWhatViewsHave holds the messages to the views of the native
// routes: a field that is added to one of both turns it red.
func TestMessagesHaveWhatViewsHave(t *testing.T) {
	for _, c := range []struct {
		view any
		m    proto.Message
		but  string // fields of the message that come from elsewhere, and of the view that go there
	}{
		{parley.Status{}, &pb.Status{}, ""}, {parley.Info{}, &pb.Node{}, ""}, {parley.Health{}, &pb.Health{}, ""}, {parley.Reloaded{}, &pb.ReloadedConfig{}, ""},
		{hello{}, &pb.StreamHello{}, ""}, {lagged{}, &pb.Lagged{}, ""}, {unknown{}, &pb.UnknownTypes{}, ""},
		{parley.PeerDetail{}, &pb.PeerDetail{}, "peer"}, {parley.PeerCount{}, &pb.PeerCount{}, ""}, {parley.AddedPeer{}, &pb.AddedPeer{}, ""},
		{parley.RemovedPeer{}, &pb.RemovedPeer{}, ""}, {parley.PeerNote{}, &pb.PeerNote{}, "peer"},
		{list[parley.Peer]{}, &pb.ListPeersResponse{}, ""}, {list[parley.StaticPeer]{}, &pb.ListStaticPeersResponse{}, ""},
		{list[parley.HistoryEntry]{}, &pb.GetHistoryResponse{}, ""},
		{list[parley.Ban]{}, &pb.ListBansResponse{}, ""}, {banCheck{}, &pb.CheckBanResponse{}, ""}, {madeBan{}.Body, &pb.AddBanResponse{}, "ban"},
		{removedBans{}, &pb.ClearBansResponse{}, ""}, {parley.BanImport{}, &pb.ImportBansResponse{}, ""},
		{parley.DHT{}, &pb.Dht{}, ""}, {list[parley.DHTBucket]{}, &pb.GetTableResponse{}, ""}, {parley.DHTNodes{}, &pb.DhtNodes{}, ""},
		{parley.DHTValue{}, &pb.DhtValue{}, ""},
		{list[parley.GossipTopic]{}, &pb.ListTopicsResponse{}, ""}, {list[parley.MeshPeer]{}, &pb.GetMeshResponse{}, ""},
		{parley.Chain{}, &pb.Chain{}, ""}, {parley.StatusHead{}, &pb.StatusHead{}, ""}, {list[parley.PeerHead]{}, &pb.ListHeadsResponse{}, ""},
		{list[parley.Block]{}, &pb.ListBlocksResponse{}, ""}, {list[parley.Validator]{}, &pb.ListValidatorsResponse{}, ""},
		{parley.Change{}, &pb.Change{}, ""}, {list[parley.Record]{}, &pb.ListRecordsResponse{}, ""},
		{list[config.Value]{}, &pb.GetConfigResponse{}, ""}, {parley.Topology{}, &pb.Topology{}, ""}, {parley.GossipTrace{}, &pb.GossipTrace{}, ""},
		{parley.TailedMessage{}, &pb.TailMessage{}, ""}, {published{}, &pb.GossipPublishResponse{}, ""},
		// what is asked for
		{parley.Draft{}, &pb.SubmitRecordRequest{}, "ack timeout"}, {parley.ChangeRequest{}, &pb.ChangeValidatorsRequest{}, "timeout"},
		{newBan{}.Body, &pb.AddBanRequest{}, "dry_run"}, {newPeer{}.Body, &pb.AddPeerRequest{}, ""},
		{peersQuery{}, &pb.ListPeersRequest{}, ""}, {bansQuery{}, &pb.ListBansRequest{}, ""}, {Page{}, &pb.ListHeadsRequest{}, ""},
		{blocksQuery{}, &pb.ListBlocksRequest{}, "from"}, {recordsQuery{}, &pb.ListRecordsRequest{}, "block"}, {meshQuery{}, &pb.GetMeshRequest{}, ""},
		{reloadQuery{}, &pb.ReloadConfigRequest{}, ""},
	} {
		but := strings.Fields(c.but)
		sameFields(t, fmt.Sprintf("%T", c.m), reflect.TypeOf(c.view), c.m.ProtoReflect().Descriptor(), but)
	}
}

var jsonTypes = []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()}

func jsonFields(t reflect.Type) map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _ := nameOf(f)
		switch {
		case !f.IsExported() || name == "-":
		case f.Anonymous:
			maps.Copy(m, jsonFields(f.Type))
		default:
			m[name] = f.Type
		}
	}
	return m
}

func sameFields(t *testing.T, place string, view reflect.Type, d protoreflect.MessageDescriptor, but []string) {
	t.Helper()
	fields := jsonFields(view)
	for _, name := range but {
		f := d.Fields().ByName(protoreflect.Name(name))
		if f == nil {
			t.Errorf("%s has no %s", place, name)
			continue
		}
		if f.Message() != nil { // what the view has embedded
			for k := range fields {
				if f.Message().Fields().ByName(protoreflect.Name(k)) != nil && d.Fields().ByName(protoreflect.Name(k)) == nil {
					delete(fields, k)
				}
			}
		}
		fields[name] = nil
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		f := d.Fields().ByName(protoreflect.Name(name))
		switch {
		case f == nil:
			t.Errorf("%s lacks %s, which %s has", place, name, view)
		case fields[name] != nil:
			sameType(t, place+"."+name, fields[name], f)
		}
	}
	for i := range d.Fields().Len() {
		if name := string(d.Fields().Get(i).Name()); fields[name] == nil && !slices.Contains(but, name) {
			t.Errorf("%s has %s, which %s lacks", place, name, view)
		}
	}
}

func sameType(t *testing.T, place string, view reflect.Type, f protoreflect.FieldDescriptor) {
	t.Helper()
	for view.Kind() == reflect.Pointer {
		view = view.Elem()
	}
	kind := f.Kind()
	want := func(kinds ...protoreflect.Kind) {
		t.Helper()
		if !slices.Contains(kinds, kind) {
			t.Errorf("%s is %s, in the view %s", place, kind, view)
		}
	}
	for _, j := range jsonTypes {
		if view != reflect.TypeFor[time.Time]() && (view.Implements(j) || reflect.PointerTo(view).Implements(j)) {
			want(protoreflect.StringKind) // such as a hash, or JSON itself
			return
		}
	}
	switch view.Kind() {
	case reflect.Struct:
		if want(protoreflect.MessageKind); kind != protoreflect.MessageKind {
			return
		}
		if view == reflect.TypeFor[time.Time]() {
			if f.Message().FullName() != "google.protobuf.Timestamp" {
				t.Errorf("%s is %s, in the view a time", place, f.Message().FullName())
			}
			return
		}
		sameFields(t, place, view, f.Message(), nil)
	case reflect.Slice:
		if view.Elem().Kind() == reflect.Uint8 {
			want(protoreflect.BytesKind)
			return
		}
		if !f.IsList() {
			t.Errorf("%s is no list", place)
			return
		}
		sameType(t, place, view.Elem(), f)
	case reflect.Map:
		if !f.IsMap() && f.Message().FullName() != "google.protobuf.Struct" {
			t.Errorf("%s is no map", place)
		}
	case reflect.String:
		want(protoreflect.StringKind)
	case reflect.Bool:
		want(protoreflect.BoolKind)
	case reflect.Float64:
		want(protoreflect.DoubleKind)
	case reflect.Int64:
		want(protoreflect.Int64Kind)
	case reflect.Int:
		want(protoreflect.Int32Kind, protoreflect.Int64Kind)
	case reflect.Uint64:
		want(protoreflect.Uint64Kind)
	case reflect.Uint32:
		want(protoreflect.Uint32Kind)
	default:
		t.Errorf("%s: no message can hold %s", place, view)
	}
}

func TestFits(t *testing.T) {
	q := &peersQuery{}
	if err := fits(q); err != nil || q.Limit != 100 || q.State != "connected" || q.Sort != bySince {
		t.Errorf("defaults: %+v %v", q, err)
	}
	for name, in := range map[string]any{
		"query.limit": &peersQuery{Page: Page{Limit: 1001}}, "below": &Page{Limit: -1}, "enum": &peersQuery{State: "odd"},
		"long": &PeerPath{ID: strings.Repeat("ä", 1025)}, "required": &bansOrigin{}, "least": &nodeQuery{}, "pattern": &blocksQuery{From: "-1"},
		"in the body": &penalty{},
	} {
		err := fits(in)
		p, _ := errors.AsType[*problem](err)
		if p == nil || p.Code != invalid.code || len(p.Errors) != 1 || p.Errors[0].Location == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := fits(&PeerPath{ID: strings.Repeat("ä", 1024)}); err != nil {
		t.Error(err)
	}
	if err := fits(&providersQuery{Body: struct {
		ProviderKey
		Limit int `json:"limit,omitempty" minimum:"1" maximum:"128" doc:"20 unless told"`
	}{ProviderKey{"x"}, 0}}); err != nil {
		t.Errorf("what may be left out: %v", err)
	}
}
