package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "userservice.bench/peers/gen/userservice/v1"
	"userservice.bench/peers/merge"
	"userservice.bench/peers/serve"
)

const (
	order        = "users" // sorted set of all user_ids by id
	lastID       = "last_id"
	mostAttempts = 10 // the maximum number of attempts of an update that conflicts with other writers
)

func key(userID string) string { return "user:" + userID }

// users handles the RPCs that are measured.
type users struct {
	pb.UnimplementedUserServiceServer
	redis *redis.Client
}

func (u *users) AddUser(ctx context.Context, request *pb.AddUserRequest) (*pb.AddUserResponse, error) {
	if request.UserId == "" {
		return nil, status.Error(codes.InvalidArgument, "user_id is required")
	}
	before := u.redis.Pipeline()
	exists, next := before.Exists(ctx, key(request.UserId)), before.Incr(ctx, lastID)
	if _, err := before.Exec(ctx); err != nil {
		return nil, err
	}
	if exists.Val() == 1 {
		return nil, status.Error(codes.AlreadyExists, "the user already exists")
	}
	now := serve.Now()
	user := &pb.User{
		UserId: request.UserId, Id: next.Val(), Uuid: uuid.Must(uuid.NewV7()).String(), Email: request.Email,
		FirstName: request.FirstName, LastName: request.LastName, Metadata: request.Metadata,
		CreatedAt: now, UpdatedAt: now, Etag: serve.NewEtag(),
	}
	fields, err := toHash(user)
	if err != nil {
		return nil, err
	}
	_, err = u.redis.TxPipelined(ctx, func(write redis.Pipeliner) error {
		write.HSet(ctx, key(user.UserId), fields...)
		write.ZAdd(ctx, order, redis.Z{Score: float64(user.Id), Member: user.UserId})
		return nil
	})
	return &pb.AddUserResponse{User: user}, err
}

func (u *users) GetUser(ctx context.Context, request *pb.GetUserRequest) (*pb.GetUserResponse, error) {
	user, err := read(ctx, u.redis, request.UserId)
	if err != nil {
		return nil, err
	}
	return &pb.GetUserResponse{User: user}, nil
}

func read(ctx context.Context, redis redis.Cmdable, userID string) (*pb.User, error) {
	fields, err := redis.HGetAll(ctx, key(userID)).Result()
	if err != nil {
		return nil, err
	}
	if len(fields) == 0 {
		return nil, status.Error(codes.NotFound, "no such user")
	}
	return fromHash(fields)
}

// UpdateUser is go-redis's optimistic transaction: WATCH, read, MULTI, write, EXEC; repeated if the user has changed.
func (u *users) UpdateUser(ctx context.Context, request *pb.UpdateUserRequest) (*pb.UpdateUserResponse, error) {
	var user *pb.User
	update := func(transaction *redis.Tx) (err error) {
		if user, err = read(ctx, transaction, request.UserId); err != nil {
			return err
		}
		merge.Update(user, request)
		fields, err := toHash(user)
		if err != nil {
			return err
		}
		_, err = transaction.TxPipelined(ctx, func(write redis.Pipeliner) error {
			return write.HSet(ctx, key(user.UserId), fields...).Err()
		})
		return err
	}
	for range mostAttempts {
		err := u.redis.Watch(ctx, update, key(request.UserId))
		if !errors.Is(err, redis.TxFailedErr) {
			return &pb.UpdateUserResponse{User: user}, err
		}
	}
	return nil, status.Error(codes.Aborted, "too many concurrent writes")
}

func (u *users) BatchGetUsers(ctx context.Context, request *pb.BatchGetUsersRequest) (*pb.BatchGetUsersResponse, error) {
	found, err := u.hashes(ctx, request.UserIds)
	if err != nil {
		return nil, err
	}
	response := &pb.BatchGetUsersResponse{Users: make([]*pb.User, 0, len(found))}
	for i, fields := range found {
		if len(fields) == 0 {
			response.MissingUserIds = append(response.MissingUserIds, request.UserIds[i])
			continue
		}
		user, err := fromHash(fields)
		if err != nil {
			return nil, err
		}
		response.Users = append(response.Users, user)
	}
	return response, nil
}

// hashes reads the hashes of many users in one pipeline.
func (u *users) hashes(ctx context.Context, userIDs []string) ([]map[string]string, error) {
	pipeline := u.redis.Pipeline()
	commands := make([]*redis.MapStringStringCmd, len(userIDs))
	for i, userID := range userIDs {
		commands[i] = pipeline.HGetAll(ctx, key(userID))
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		return nil, err
	}
	found := make([]map[string]string, len(commands))
	for i, command := range commands {
		found[i] = command.Val()
	}
	return found, nil
}

func (u *users) ListUsersChunked(
	request *pb.ListUsersChunkedRequest, stream grpc.ServerStreamingServer[pb.ListUsersChunkedResponse],
) error {
	ctx, size, cursor := stream.Context(), serve.ChunkSize(request.ChunkSize), request.Cursor
	total, err := u.redis.ZCard(ctx, order).Result()
	if err != nil {
		return err
	}
	for {
		chunk, err := u.chunk(ctx, cursor, size)
		if err != nil {
			return err
		}
		isLast := int64(len(chunk)) < size
		if !isLast {
			cursor = chunk[len(chunk)-1].Id
		} else {
			cursor = 0
		}
		if err := stream.Send(&pb.ListUsersChunkedResponse{Users: chunk, NextCursor: cursor, TotalSize: total}); err != nil {
			return err
		}
		if isLast {
			return nil
		}
	}
}

// chunk reads the next users after the cursor: their user_ids, then their hashes.
func (u *users) chunk(ctx context.Context, cursor, size int64) ([]*pb.User, error) {
	userIDs, err := u.redis.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: order, Start: fmt.Sprintf("(%d", cursor), Stop: "+inf", ByScore: true, Count: size,
	}).Result()
	if err != nil || len(userIDs) == 0 {
		return nil, err
	}
	found, err := u.hashes(ctx, userIDs)
	if err != nil {
		return nil, err
	}
	chunk := make([]*pb.User, 0, len(found))
	for _, fields := range found {
		if len(fields) == 0 { // deleted meanwhile
			continue
		}
		user, err := fromHash(fields)
		if err != nil {
			return nil, err
		}
		chunk = append(chunk, user)
	}
	return chunk, nil
}
