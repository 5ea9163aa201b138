package main

import (
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "userservice.bench/peers/gen/userservice/v1"
)

// toHash returns the fields of a user's hash. Metadata is JSON, times are microseconds.
func toHash(user *pb.User) ([]any, error) {
	metadata, err := user.Metadata.MarshalJSON()
	if err != nil {
		return nil, err
	}
	return []any{
		"user_id", user.UserId,
		"id", user.Id,
		"uuid", user.Uuid,
		"email", user.Email,
		"first_name", user.FirstName,
		"last_name", user.LastName,
		"metadata", metadata,
		"created_at", user.CreatedAt.AsTime().UnixMicro(),
		"updated_at", user.UpdatedAt.AsTime().UnixMicro(),
		"etag", user.Etag,
	}, nil
}

// fromHash returns the user in a hash.
func fromHash(fields map[string]string) (*pb.User, error) {
	id, err := strconv.ParseInt(fields["id"], 10, 64)
	if err != nil {
		return nil, err
	}
	metadata := &structpb.Struct{}
	if err := metadata.UnmarshalJSON([]byte(fields["metadata"])); err != nil {
		return nil, err
	}
	createdAt, err := timestamp(fields["created_at"])
	if err != nil {
		return nil, err
	}
	updatedAt, err := timestamp(fields["updated_at"])
	if err != nil {
		return nil, err
	}
	return &pb.User{
		UserId:    fields["user_id"],
		Id:        id,
		Uuid:      fields["uuid"],
		Email:     fields["email"],
		FirstName: fields["first_name"],
		LastName:  fields["last_name"],
		Metadata:  metadata,
		CreatedAt: createdAt,
		UpdatedAt: updatedAt,
		Etag:      fields["etag"],
	}, nil
}

func timestamp(text string) (*timestamppb.Timestamp, error) {
	microseconds, err := strconv.ParseInt(text, 10, 64)
	return timestamppb.New(time.UnixMicro(microseconds)), err
}
