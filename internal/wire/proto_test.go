package wire

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Google's own runtime, given wire.proto, reads and writes the same bytes.
func TestProtoFileAgrees(t *testing.T) {
	file := parseProto(t)
	samples := messages(t)
	if n := file.Messages().Len(); n != len(samples) {
		t.Errorf("wire.proto has %d messages, the code %d", n, len(samples))
	}
	for _, m := range samples {
		t.Run(m.name, func(t *testing.T) {
			desc := file.Messages().ByName(protoreflect.Name(m.name))
			if desc == nil {
				t.Fatal("not in wire.proto")
			}
			msg := dynamicpb.NewMessage(desc)
			if err := proto.Unmarshal(m.full, msg); err != nil {
				t.Fatal(err)
			}
			for i := range desc.Fields().Len() {
				if fd := desc.Fields().Get(i); !msg.Has(fd) {
					t.Errorf("field %s is never written", fd.Name())
				}
			}
			if len(msg.GetUnknown()) > 0 {
				t.Error("wire.proto lacks a field")
			}
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
			if err != nil || !bytes.Equal(b, m.full) {
				t.Errorf("other bytes, %v", err)
			}
		})
	}
}

var (
	messageLine = regexp.MustCompile(`(?m)^message (\w+) \{\n((?:  .*\n)+)\}`)
	fieldLine   = regexp.MustCompile(`(?m)^  (repeated )?(\w+) (\w+) = (\d+);`)
)

// parseProto reads the plain subset of the language that wire.proto keeps to.
func parseProto(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	src, err := os.ReadFile("wire.proto")
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]descriptorpb.FieldDescriptorProto_Type{
		"uint32": descriptorpb.FieldDescriptorProto_TYPE_UINT32,
		"uint64": descriptorpb.FieldDescriptorProto_TYPE_UINT64,
		"string": descriptorpb.FieldDescriptorProto_TYPE_STRING,
		"bytes":  descriptorpb.FieldDescriptorProto_TYPE_BYTES,
	}
	file := &descriptorpb.FileDescriptorProto{
		Name: new("wire.proto"), Package: new("parley.wire.v1"), Syntax: new("proto3"),
	}
	for _, m := range messageLine.FindAllSubmatch(src, -1) {
		msg := &descriptorpb.DescriptorProto{Name: new(string(m[1]))}
		for _, line := range fieldLine.FindAllSubmatch(m[2], -1) {
			num, err := strconv.ParseInt(string(line[4]), 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			field := &descriptorpb.FieldDescriptorProto{
				Name: new(string(line[3])), Number: new(int32(num)),
				Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
			}
			if len(line[1]) > 0 {
				field.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
			}
			if typ, ok := types[string(line[2])]; ok {
				field.Type = typ.Enum()
			} else {
				field.Type = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
				field.TypeName = new(".parley.wire.v1." + string(line[2]))
			}
			msg.Field = append(msg.Field, field)
		}
		file.MessageType = append(file.MessageType, msg)
	}
	desc, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}
