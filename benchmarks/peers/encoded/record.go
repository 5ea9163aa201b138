package main

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "userservice.bench/peers/gen/userservice/v1"
)

// A record is an encoded User, framed as an element of field 1, as in the service: one record is a GetUserResponse, and
// records joined are the users of the other responses.

const idBytes = 8 // of an id as a varint of fixed length, so that a new record's length is known before its id

func frame(body []byte) []byte {
	framed := make([]byte, 0, len(body)+6)
	framed = protowire.AppendTag(framed, 1, protowire.BytesType)
	return protowire.AppendBytes(framed, body)
}

func decode(record string) (*pb.User, error) {
	_, _, tag := protowire.ConsumeTag([]byte(record))
	body, length := protowire.ConsumeBytes([]byte(record)[tag:])
	if length < 0 {
		return nil, protowire.ParseError(length)
	}
	user := &pb.User{}
	return user, proto.Unmarshal(body, user)
}

// newRecord returns what comes before and after the id in the record of a new user.
func newRecord(user *pb.User) (head, tail string, err error) {
	rest, err := proto.Marshal(&pb.User{
		Uuid: user.Uuid, Email: user.Email, FirstName: user.FirstName, LastName: user.LastName, Metadata: user.Metadata,
		CreatedAt: user.CreatedAt, UpdatedAt: user.UpdatedAt, Etag: user.Etag,
	})
	if err != nil {
		return "", "", err
	}
	start := protowire.AppendTag(nil, 1, protowire.BytesType)
	start = protowire.AppendString(start, user.UserId)
	start = protowire.AppendTag(start, 2, protowire.VarintType)
	before := protowire.AppendTag(nil, 1, protowire.BytesType)
	before = protowire.AppendVarint(before, uint64(len(start)+idBytes+len(rest)))
	return string(before) + string(start), string(rest), nil
}
