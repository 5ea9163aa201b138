package main

import (
	"context"
	"strconv"

	"github.com/redis/rueidis"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	pb "userservice.bench/peers/gen/userservice/v1"
	"userservice.bench/peers/serve"
)

const (
	readAhead     = 2  // chunks that are ready before the current one is sent
	trailingBytes = 22 // of next_cursor and total_size
)

// chunk is a response of the stream, or the error that prevented the response.
type chunk struct {
	response []byte
	err      error
}

func (u *users) listUsersChunked(request *pb.ListUsersChunkedRequest, stream grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	chunks := make(chan chunk, readAhead)
	go u.read(ctx, request, chunks)
	for next := range chunks {
		if next.err != nil {
			return next.err
		}
		if err := stream.SendMsg(next.response); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// read fetches one chunk after the other: the records of a chunk and the user_ids of the next one in one pipeline.
func (u *users) read(ctx context.Context, request *pb.ListUsersChunkedRequest, chunks chan<- chunk) {
	defer close(chunks)
	send := func(next chunk) bool {
		select {
		case chunks <- next:
			return next.err == nil
		case <-ctx.Done():
			return false
		}
	}
	size := serve.ChunkSize(request.ChunkSize)
	start := u.store.DoMulti(ctx, u.store.B().Zcard().Key(order).Build(), u.idsAfter(request.Cursor, size))
	total, err := start[0].AsInt64()
	if err != nil {
		send(chunk{err: err})
		return
	}
	ids, err := start[1].AsZScores()
	for {
		if err != nil {
			send(chunk{err: err})
			return
		}
		isLast := int64(len(ids)) < size
		var cursor int64
		if !isLast {
			cursor = int64(ids[len(ids)-1].Score)
		}
		var found []rueidis.RedisMessage
		found, ids, err = u.recordsAndNext(ctx, ids, cursor, size)
		if err != nil {
			continue
		}
		if !send(chunk{response: withTrailer(joined(found), cursor, total)}) || isLast {
			return
		}
	}
}

func (u *users) idsAfter(cursor, size int64) rueidis.Completed {
	after := "(" + strconv.FormatInt(cursor, 10)
	return u.store.B().Zrange().Key(order).Min(after).Max("+inf").Byscore().Limit(0, size).Withscores().Build()
}

// recordsAndNext returns the records of these users, and the users after the cursor unless it is 0.
func (u *users) recordsAndNext(
	ctx context.Context, ids []rueidis.ZScore, cursor, size int64,
) ([]rueidis.RedisMessage, []rueidis.ZScore, error) {
	if len(ids) == 0 {
		return nil, nil, nil
	}
	userIDs := make([]string, len(ids))
	for i := range ids {
		userIDs[i] = ids[i].Member
	}
	commands := rueidis.Commands{u.store.B().Hmget().Key(records).Field(userIDs...).Build()}
	if cursor != 0 {
		commands = append(commands, u.idsAfter(cursor, size))
	}
	replies := u.store.DoMulti(ctx, commands...)
	found, err := replies[0].ToArray()
	if err != nil || cursor == 0 {
		return found, nil, err
	}
	next, err := replies[1].AsZScores()
	return found, next, err
}

// joined returns the records one after the other, without those that are missing.
func joined(found []rueidis.RedisMessage) []byte {
	texts, size := make([]string, len(found)), trailingBytes
	for i := range found {
		texts[i], _ = found[i].ToString() // empty if the record is missing
		size += len(texts[i])
	}
	response := make([]byte, 0, size)
	for _, text := range texts {
		response = append(response, text...)
	}
	return response
}

func withTrailer(response []byte, cursor, total int64) []byte {
	if cursor != 0 {
		response = protowire.AppendTag(response, 2, protowire.VarintType)
		response = protowire.AppendVarint(response, uint64(cursor))
	}
	response = protowire.AppendTag(response, 3, protowire.VarintType)
	return protowire.AppendVarint(response, uint64(total))
}
