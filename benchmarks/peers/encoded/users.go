package main

import (
	"context"

	"github.com/google/uuid"
	"github.com/redis/rueidis"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "userservice.bench/peers/gen/userservice/v1"
	"userservice.bench/peers/merge"
	"userservice.bench/peers/serve"
)

const mostAttempts = 10 // the maximum number of attempts of an update that conflicts with other writers

// users handles the RPCs that are measured.
type users struct {
	store rueidis.Client
}

func (u *users) addUser(ctx context.Context, request *pb.AddUserRequest) ([]byte, error) {
	if request.UserId == "" {
		return nil, status.Error(codes.InvalidArgument, "user_id is required")
	}
	now := serve.Now()
	head, tail, err := newRecord(&pb.User{
		UserId: request.UserId, Uuid: uuid.Must(uuid.NewV7()).String(), Email: request.Email,
		FirstName: request.FirstName, LastName: request.LastName, Metadata: request.Metadata,
		CreatedAt: now, UpdatedAt: now, Etag: serve.NewEtag(),
	})
	if err != nil {
		return nil, err
	}
	keys, arguments := []string{records, order, lastID}, []string{request.UserId, head, tail}
	record, err := addScript.Exec(ctx, u.store, keys, arguments).AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, status.Error(codes.AlreadyExists, "the user already exists")
	}
	return record, err
}

func (u *users) getUser(ctx context.Context, request *pb.GetUserRequest) ([]byte, error) {
	record, err := u.store.Do(ctx, u.store.B().Hget().Key(records).Field(request.UserId).Build()).AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, status.Error(codes.NotFound, "no such user")
	}
	return record, err
}

func (u *users) updateUser(ctx context.Context, request *pb.UpdateUserRequest) ([]byte, error) {
	for range mostAttempts {
		old, err := u.getUser(ctx, &pb.GetUserRequest{UserId: request.UserId})
		if err != nil {
			return nil, err
		}
		user, err := decode(string(old))
		if err != nil {
			return nil, err
		}
		merge.Update(user, request)
		body, err := proto.Marshal(user)
		if err != nil {
			return nil, err
		}
		record := frame(body)
		arguments := []string{request.UserId, rueidis.BinaryString(old), rueidis.BinaryString(record)}
		isReplaced, err := replaceScript.Exec(ctx, u.store, []string{records}, arguments).AsBool()
		if err != nil || isReplaced {
			return record, err
		}
	}
	return nil, status.Error(codes.Aborted, "too many concurrent writes")
}

func (u *users) batchGetUsers(ctx context.Context, request *pb.BatchGetUsersRequest) ([]byte, error) {
	found, err := u.store.Do(ctx, u.store.B().Hmget().Key(records).Field(request.UserIds...).Build()).ToArray()
	if err != nil {
		return nil, err
	}
	response, missing := joined(found), []byte(nil)
	for i := range found {
		if found[i].IsNil() {
			missing = protowire.AppendTag(missing, 2, protowire.BytesType)
			missing = protowire.AppendString(missing, request.UserIds[i])
		}
	}
	return append(response, missing...), nil
}
